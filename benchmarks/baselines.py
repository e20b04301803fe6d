"""Other detectors in the same tables: torchvision's, and any detector with a short adapter.

An adapter is a function of (device, precision) that returns a detector: a callable from a list of
decoded (3, H, W) uint8 images on the host to a list of {"boxes", "scores", "labels"} in pixels of
those images. On the command line it is named "module:function". The callable may have `classes`
(class names by label; required to compute AP), `resize(shortest, longest)` (required to measure at
other sizes than its default) and `training_model()` (a module that returns losses for images of
0..1 and targets; required to measure training). It may be a `torch.nn.Module` (required to count
its parameters).
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
from torchvision.ops import FrozenBatchNorm2d

from benchmarks import random_weights
from benchmarks.cases import MissingError
from benchmarks.dataset import embedded, read_images
from zoo.pretrained import DTYPES

BUILT_IN = {"torchvision": "benchmarks.baselines:torchvision_fcos"}
Images = Sequence[Tensor]
Boxes = list[dict[str, Tensor]]


def full_name(name: str) -> str:
    """Return the "module:function" of a baseline.

    Raises:
        ValueError: `name` has not this form, and is not a key of `BUILT_IN`.
    """
    name = BUILT_IN.get(name, name)
    if ":" not in name:
        known = ", ".join(BUILT_IN)
        raise ValueError(f"{name!r} is not a baseline: write module:function, or one of {known}")
    return name


def digest(entry: str) -> str:
    """Return twelve characters of the SHA-256 of an adapter's file, which identify the detector;
    empty if the module does not exist, which the measurement will report."""
    module = entry.split(":")[0]
    _search_working_directory(module)
    try:
        spec = importlib.util.find_spec(module)
    except ImportError:  # from the package that should contain it
        return ""
    if spec is None or spec.origin is None:
        return ""
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()[:12]


def load(
    entry: str, device: str, precision: str, size: tuple[int, int] | None = None
) -> Callable[[Images], Boxes]:
    """Call an adapter; its module is also searched in the working directory.

    Args:
        entry: "module:function".
        device, precision: passed to the function.
        size: (shortest, longest) side of the images, None for the detector's default.

    Raises:
        ImportError: there is no such module or function.
        MissingError: the detector cannot be resized.
    """
    module, function = entry.split(":")
    _search_working_directory(module)
    adapter = getattr(importlib.import_module(module), function, None)
    if adapter is None:
        raise ImportError(f"{module} has no function {function}")
    detector = adapter(device, precision)
    if size is not None:
        if not hasattr(detector, "resize"):
            raise MissingError("the adapter's detector has no resize(shortest, longest)")
        detector.resize(*size)
    return detector


def _search_working_directory(module: str) -> None:
    if (Path.cwd() / f"{module.split('.')[0]}.py").is_file() and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def torchvision_fcos(device: str, precision: str) -> nn.Module:
    """Load torchvision's fcos_resnet50_fpn with COCO weights from its cache, or random ones."""
    url = FCOS_ResNet50_FPN_Weights.COCO_V1.url
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if file.is_file():
        model = load_torchvision(file)
    else:
        model = randomized_torchvision(read_images(embedded(), 1)[0])
    return _Torchvision(model, device, precision, "published" if file.is_file() else "random")


def load_torchvision(file: Path) -> nn.Module:
    """Load torchvision's model with a state dict from disk."""
    model = fcos_resnet50_fpn(weights=None, weights_backbone=None).eval()
    model.load_state_dict(torch.load(file, weights_only=True))
    return model


def randomized_torchvision(image: Tensor, size: tuple[int, int] = (800, 1333)) -> nn.Module:
    """Build torchvision's model with random weights that cause as much work as those of ours, see
    `random_weights.randomize`. Its norms are then `BatchNorm2d`, the faster of its two kinds.

    Args:
        size: (shortest, longest) side to which it resizes images.
    """
    torch.manual_seed(0)
    model = fcos_resnet50_fpn(
        weights=None, weights_backbone=None, min_size=size[0], max_size=size[1]
    ).eval()
    random_weights.calibrate_batchnorm(model, lambda: model([image.float() / 255]))
    nn.init.zeros_(model.head.regression_head.bbox_reg.weight)
    nn.init.constant_(model.head.regression_head.bbox_reg.bias, random_weights.BOX_STRIDES)
    outputs: list[dict[str, Tensor]] = []
    hook = model.head.register_forward_hook(lambda *call: outputs.append(call[2]))
    with torch.no_grad():
        model([image.float() / 255])
    hook.remove()
    # Its threshold applies to the square root of class score times centre-ness.
    needed = model.score_thresh**2 / outputs[0]["bbox_ctrness"].sigmoid()
    margins = outputs[0]["cls_logits"] - needed.clamp(max=1 - 1e-6).logit()
    bias = model.head.classification_head.cls_logits.bias
    random_weights.match_candidate_count(bias, margins.flatten(), random_weights.CANDIDATES)
    return model


def trainable_torchvision(size: tuple[int, int] = (800, 1333)) -> nn.Module:
    """Build torchvision's model with constant norms and a frozen stem and first stage.

    Args:
        size: (shortest, longest) side to which it resizes images.
    """
    torch.manual_seed(0)
    model = fcos_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        min_size=size[0],
        max_size=size[1],
        norm_layer=FrozenBatchNorm2d,
    )
    body = model.get_submodule("backbone.body")
    for part in ("conv1", "layer1"):  # without pretrained weights torchvision trains everything
        body.get_submodule(part).requires_grad_(False)
    return model


class _Torchvision(nn.Module):
    """A torchvision detector with the interface of an adapter's detector."""

    classes = FCOS_ResNet50_FPN_Weights.COCO_V1.meta["categories"]

    def __init__(self, model: nn.Module, device: str, precision: str, weights: str) -> None:
        super().__init__()
        self.model = model.to(device).to(memory_format=torch.channels_last)
        self.device = torch.device(device)
        self.dtype = DTYPES.get(precision, torch.float32)
        self.weights = weights

    def resize(self, shortest: int, longest: int) -> None:
        """Replace 800 and 1333 as the sides of resized images."""
        transform: Any = self.model.transform
        transform.min_size, transform.max_size = (shortest,), longest

    def training_model(self) -> nn.Module:
        """Build the model for training: with constant norms, and frozen stem and first stage."""
        return trainable_torchvision()

    def forward(self, images: Images) -> Any:
        """Detect in images; below fp32 by autocast, since its box coder needs fp32."""
        batch = [image.to(self.device).float() / 255 for image in images]
        with torch.autocast(self.device.type, self.dtype, self.dtype != torch.float32):
            return self.model(batch)
