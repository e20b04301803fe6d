"""The weights that training starts from: those of a detector, or ImageNet's for its backbone.

ImageNet files name their tensors differently and may expect another channel order or normalisation.
The tensors are converted so that the backbone computes the same from the detector's input.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backbones import MobileNetV2
from fcos import Detector
from zoo import formats
from zoo.checkpoint import is_path, open_checkpoint, read_checkpoint
from zoo.config import build_detector
from zoo.download import fetch
from zoo.files import read
from zoo.formats import COUNTER, CheckpointError, unwrap
from zoo.formats.backbones import (
    CAFFE2_RESNET,
    DLA_UNREAD,
    MOBILENET_V2_TORCHVISION,
    TABLES,
    Rule,
)
from zoo.registry import CONFIGS, card, fetch_weights
from zoo.sources import FileSource, load_yaml, source_of

FOLDER = CONFIGS / "imagenet"
CLASSIFIER: Rule = (r"(stem\.)?(fc|fc1000|pred|classifier|head|linear)[._].+", "")
# Prefixes of all keys in some files of detectron2 and maskrcnn-benchmark.
PREFIX = r"^backbone\.((bottom_up|body)\.)?"
# Our keys that a file may lack: of layers that only detectors have, or that are never used.
OPTIONAL = rf".+\.conv\.offset\.(weight|bias)|{DLA_UNREAD}|.+{re.escape(COUNTER)}"


def initialize_weights(detector: Detector, config: Mapping[str, Any]) -> str:
    """Load the weights that training starts from, and return a line that names them."""
    init = config["init"]
    if init["checkpoint"]:
        return load_pretrained(detector, init["checkpoint"], config)
    backbone, imagenet = init["backbone"], config.get("imagenet")
    if backbone == "auto" and imagenet is None:
        return "no ImageNet weights are known for this model: started from random weights"
    if not backbone:
        return "started from random weights"
    if backbone in ("auto", "imagenet"):
        backbone = imagenet or backbone  # the run may have another backbone than the entry
    load_backbone(detector, backbone)
    return f"started the backbone from {backbone}, everything else from random weights"


def load_pretrained(detector: Detector, source: str, config: Mapping[str, Any]) -> str:
    """Copy the weights of a model, a file or an address into a detector.

    If the classes differ, only the rows of the class predictor for classes of the same name are
    copied.

    Returns:
        A line for the log that says what was copied.
    """
    if is_path(source):
        checkpoint, classes = open_checkpoint(source), config["classes"]
    else:
        entry = card(source)
        checkpoint, classes = read_checkpoint(fetch_weights(entry)), entry.config["classes"]
    num_classes = formats.num_classes(detector, checkpoint.state)
    if num_classes is None:
        raise ValueError(
            f"{checkpoint.name} has no class predictor: it is not a checkpoint of "
            f"{config['family']}"
        )
    donor = build_detector(config, num_classes)
    formats.load_state(donor, checkpoint.state)
    pretrained = donor.state_dict()

    origin, classes = f"started from {checkpoint.name}", checkpoint.classes or classes
    if len(classes) != num_classes:
        classes = (None,) * num_classes  # the file does not name its classes
    if tuple(classes) == detector.classes:
        detector.load_state_dict(pretrained)
        return f"{origin}: all {len(pretrained)} tensors, the classes are the same"
    own = {k: v for k, v in detector.state_dict().items() if k.startswith("head.cls_logits.")}
    shared = [name for name in detector.classes if name in classes]
    to_rows = [detector.classes.index(name) for name in shared]
    from_rows = [classes.index(name) for name in shared]
    for key, tensor in own.items():
        tensor[to_rows] = pretrained[key].to(tensor)[from_rows]
    detector.load_state_dict({**pretrained, **own})
    return (
        f"{origin}: {len(pretrained) - len(own)} tensors copied; the class predictor "
        f"is initialised again, from {num_classes} to {len(detector.classes)} classes"
        + (f", except for the {len(shared)} of the same name" if shared else "")
    )


def load_backbone(detector: Detector, source: str | Path | Mapping[str, Any] = "imagenet") -> None:
    """Load ImageNet weights into a detector's backbone, strictly.

    Args:
        detector: if the weights were trained with another channel order or normalisation, its first
            convolution and the mean of its norm are converted.
        source: "imagenet" for those that the entry was trained from, or the most similar ones that
            can still be downloaded; a name in `configs/imagenet`; or a file or mapping in the same
            format as the entry's weights.

    Raises:
        CheckpointError: lists every tensor that is missing, unexpected or misshapen; the backbone
            is then as it was.
        LookupError: there are no ImageNet weights of that name, or none are known for the entry.
    """
    name = detector.card.config.get("imagenet") if detector.card else None
    if isinstance(source, str) and (source == "imagenet" or (FOLDER / f"{source}.yaml").is_file()):
        name = name if source == "imagenet" else source
        if name is None:
            raise LookupError("no ImageNet weights are known for this entry: name a file instead")
        content: Any = read(fetch(*_file(facts_of(name))))
    elif isinstance(source, Mapping):
        content = source
    elif Path(source).is_file():
        content = read(source)
    else:
        known = ", ".join(sorted(path.stem for path in FOLDER.glob("*.yaml")))
        raise LookupError(f"no ImageNet weights {str(source)!r}: a file, or one of {known}")
    facts = facts_of(name) if name else {}
    check_stride(detector, facts)
    state = translate(detector, _state(content))
    if facts.get("input"):
        _adapt_stem(detector, state, facts["input"])
    detector.backbone.load_state_dict(state, strict=False)


def translate(detector: Detector, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a classification network's state to the backbone's keys; see `load_backbone`."""
    backbone: Any = detector.backbone
    wanted: dict[str, Tensor] = backbone.state_dict()
    tables: list[Sequence[Rule]] = [TABLES.get(type(backbone), ())]
    if isinstance(backbone, MobileNetV2):
        tables.append(MOBILENET_V2_TORCHVISION)
    complaints = []
    for table in tables:
        names = formats.renamed(state, (CLASSIFIER, *CAFFE2_RESNET, *table))
        statistics = _statistics_of_affine_norms(backbone, set(names.values()))
        names |= {key: key for key in statistics}
        ours, faults = formats.match({**state, **statistics}, names, wanted, OPTIONAL)
        if not faults:
            return ours
        complaints.append(faults)
    raise CheckpointError(
        f"these are not ImageNet weights of this {type(backbone).__name__}: "
        + min(complaints, key=len)
    )


def facts_of(name: str) -> dict[str, Any]:
    """Return the facts of the weights of this name in `configs/imagenet`."""
    return load_yaml(FOLDER / f"{name}.yaml")


def sources_of(filename: str) -> list[FileSource]:
    """Return the sources of the ImageNet weights with this file name; empty for other files."""
    files = (_file(facts_of(path.stem)) for path in FOLDER.glob("*.yaml"))
    return next((sources for name, sources in files if name == filename), [])


def check_stride(detector: Detector, facts: Mapping[str, Any]) -> None:
    """Raise a CheckpointError if the weights were trained with the strides in other layers."""
    has = getattr(detector.backbone, "stride_in_1x1", None)
    needs = facts.get("stride_in_1x1")
    if has is not None and needs is not None and has != needs:
        layers = {True: "the first 1x1 convolution", False: "the 3x3 convolution"}
        raise CheckpointError(
            f"these weights were trained with the stride of a stage in {layers[needs]}, "
            f"this backbone has it in {layers[has]}: choose weights of its own kind"
        )


def _file(facts: Mapping[str, Any]) -> tuple[str, list[FileSource]]:
    """Return the file's name in the cache, and its sources."""
    sources = [source_of(each) for each in facts["weights"]]
    filename = facts.get("filename") or sources[0].url.split("?")[0].rsplit("/", 1)[-1]
    return filename, sources


def _state(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the state dict in a file, without prefixes: as `unwrap` does, or Caffe2's blobs."""
    if isinstance(content.get("blobs"), Mapping):  # beside the solver's momentum
        content = {
            key: value
            for key, value in content["blobs"].items()
            if not key.endswith("_momentum") and hasattr(value, "shape")
        }
    notes = ("__author__", "matching_heuristics")
    content = {key: value for key, value in content.items() if key not in notes}
    return {re.sub(PREFIX, "", key): value for key, value in unwrap(content).items()}


def _statistics_of_affine_norms(backbone: Any, names: Collection[str | None]) -> dict[str, Tensor]:
    """Return neutral statistics for norms that are only affine maps, such as Caffe2's."""
    statistics = {}
    for name, module in backbone.named_modules():
        if f"{name}.weight" in names and hasattr(module, "running_var"):
            statistics[f"{name}.running_mean"] = torch.zeros_like(module.running_mean)
            statistics[f"{name}.running_var"] = torch.ones_like(module.running_var) - module.eps
    return {key: value for key, value in statistics.items() if key not in names}


def _adapt_stem(detector: Detector, state: dict[str, Tensor], trained: Mapping[str, Any]) -> None:
    """Rewrite the first convolution, W x' = W (a x + b), for the detector's input x.

    Inputs that differ only by half a grey level in their means, as those of Caffe2 and detectron2,
    are not adapted, as they were not when the published detectors were trained.
    """
    normalizer = detector.normalizer
    mean, std = torch.tensor(trained["mean"]), torch.tensor(trained["std"])
    same_order = trained["channel_order"] == normalizer.channel_order
    if not same_order:
        mean, std = mean.flip(0), std.flip(0)
    scale = trained["value_range"] / normalizer.value_range
    a = normalizer.std.flatten().cpu() * scale / std
    b = (normalizer.mean.flatten().cpu() * scale - mean) / std
    if same_order and torch.allclose(a, torch.ones(3), atol=0.02):
        return
    key = next(k for k in state if state[k].ndim == 4 and state[k].shape[1] == 3)
    weight = state[key].float()
    if not same_order:
        weight = weight.flip(1)
    mean_key = key.replace("conv.weight", "norm.running_mean")
    state[mean_key] = state[mean_key] - (weight.sum((2, 3)) * b).sum(1)
    state[key] = weight * a.view(1, 3, 1, 1)
