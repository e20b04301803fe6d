"""Other detectors in the same tables: torchvision's, and any that an adapter of ten lines brings.

An adapter is a function of (device, precision) that returns the detector: a callable from a list of
decoded (3, H, W) uint8 pictures on the host to a list of {"boxes", "scores", "labels"} in their
own pixels. It is named "module:function" wherever an entry is. `classes` of the callable, names by
label, makes AP measurable; `parameters()`, if it is a `torch.nn.Module`, the parameter count; and
`resize(shortest, longest)` other sizes than its own.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS_ResNet50_FPN_Weights, fcos_resnet50_fpn

from benchmarks import pictures, synthetic
from benchmarks.cell import MissingError
from zoo.build import DTYPES

METRICS = ("params", "latency", "throughput", "memory", "ap")
BUILT_IN = {"torchvision": "benchmarks.peers:torchvision_fcos"}
Pictures = Sequence[Tensor]
Boxes = list[dict[str, Tensor]]


def qualified(name: str) -> str:
    """The full name of a peer, "module:function".

    Raises:
        ValueError: it is neither that nor one of `BUILT_IN`.
    """
    name = BUILT_IN.get(name, name)
    if ":" not in name:
        known = ", ".join(BUILT_IN)
        raise ValueError(f"{name!r} is no peer: write module:function, or one of {known}")
    return name


def digest(entry: str) -> str:
    """Twelve characters of an adapter's file: another one is another detector. Empty where there is
    none, which its measurement then says."""
    module = entry.split(":")[0]
    _look_here(module)
    try:
        found = importlib.util.find_spec(module)
    except ImportError:  # of the package that it should be in
        return ""
    if found is None or found.origin is None:
        return ""
    return hashlib.sha256(Path(found.origin).read_bytes()).hexdigest()[:12]


def is_peer(entry: str) -> bool:
    """Whether a cell's entry is a peer and not one of the zoo."""
    return ":" in entry


def load(
    entry: str, device: str, precision: str, size: tuple[int, int] | None = None
) -> Callable[[Pictures], Boxes]:
    """The detector of an adapter; its module is looked for in the working directory too.

    Args:
        entry: "module:function".
        device, precision: what the function is given.
        size: (shortest, longest) side of the images, None for the detector's own.

    Raises:
        ImportError: there is no such module or function.
        MissingError: the detector knows no other size than its own.
    """
    module, function = entry.split(":")
    _look_here(module)
    adapter = getattr(importlib.import_module(module), function, None)
    if adapter is None:
        raise ImportError(f"{module} has no function {function}")
    detector = adapter(device, precision)
    if size is not None:
        if not hasattr(detector, "resize"):
            raise MissingError("the adapter's detector has no resize(shortest, longest)")
        detector.resize(*size)
    return detector


def _look_here(module: str) -> None:
    if (Path.cwd() / f"{module.split('.')[0]}.py").is_file() and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def torchvision_fcos(device: str, precision: str) -> nn.Module:
    """torchvision's fcos_resnet50_fpn: COCO weights from its own cache, or random ones."""
    published = FCOS_ResNet50_FPN_Weights.COCO_V1
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(published.url).name
    if file.is_file():
        model = trained_torchvision(file)
    else:
        dataset = pictures.embedded()
        model = random_torchvision(pictures.read(dataset, pictures.image_ids(dataset)[0]).image)
    return _Torchvision(model, device, precision, published.meta["categories"], file.is_file())


def trained_torchvision(file: Path) -> nn.Module:
    """torchvision's model with a state dict from disk."""
    model = fcos_resnet50_fpn(weights=None, weights_backbone=None).eval()
    model.load_state_dict(torch.load(file, weights_only=True))
    return model


def random_torchvision(photo: Tensor) -> nn.Module:
    """torchvision's model with random weights that give it as much to do as `synthetic` gives ours.

    Its norms are then `BatchNorm2d`, the faster of its two kinds.
    """
    torch.manual_seed(0)
    model = fcos_resnet50_fpn(weights=None, weights_backbone=None).eval()
    synthetic.settle_norms(model, lambda: model([photo.float() / 255]))
    nn.init.zeros_(model.head.regression_head.bbox_reg.weight)
    nn.init.constant_(model.head.regression_head.bbox_reg.bias, synthetic.BOX_STRIDES)
    outputs: list[dict[str, Tensor]] = []
    hook = model.head.register_forward_hook(lambda *call: outputs.append(call[2]))
    with torch.no_grad():
        model([photo.float() / 255])
    hook.remove()
    # Its threshold is on the square root of class score times centre-ness.
    needed = model.score_thresh**2 / outputs[0]["bbox_ctrness"].sigmoid()
    margins = outputs[0]["cls_logits"] - needed.clamp(max=1 - 1e-6).logit()
    bias = model.head.classification_head.cls_logits.bias
    synthetic.shift_bias(bias, margins.flatten(), synthetic.CANDIDATES)
    return model


class _Torchvision(nn.Module):
    """A torchvision detector under the adapters' convention."""

    def __init__(
        self, model: nn.Module, device: str, precision: str, classes: list[str], trained: bool
    ) -> None:
        super().__init__()
        self.model = model.to(device).to(memory_format=torch.channels_last)
        self.device = torch.device(device)
        self.dtype = DTYPES.get(precision, torch.float32)
        self.classes = classes
        self.weights = "published" if trained else "random"

    def resize(self, shortest: int, longest: int) -> None:
        """Other sides of the images than 800 and 1333."""
        transform: Any = self.model.transform
        transform.min_size, transform.max_size = (shortest,), longest

    def forward(self, images: Pictures) -> Any:
        """Pictures to boxes; precisions below fp32 by autocast, as its box coder needs fp32."""
        moved = [image.to(self.device).float() / 255 for image in images]
        with torch.autocast(self.device.type, self.dtype, self.dtype != torch.float32):
            return self.model(moved)
