"""ImageNet weights for a detector's backbone: keys, channel order and normalisation set right."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backbones import MobileNetV2
from fcos import Detector
from zoo.download import fetch
from zoo.files import read
from zoo.formats import BODIES, COUNTER, CheckpointError, unwrap
from zoo.formats.bodies import CAFFE2_RESNET, DLA_UNREAD, MOBILENET_V2_TORCHVISION
from zoo.formats.rules import Rule, rename
from zoo.registry import CONFIGS, load_yaml, source_of
from zoo.sources import FileSource

CLASSIFIER: tuple[Rule, ...] = ((r"(stem\.)?(fc|fc1000|pred|classifier|head|linear)[._].+", ""),)
# What some files put before every key: those that detectron2 or maskrcnn-benchmark wrote.
BODY = r"backbone\.((bottom_up|body)\.)?"
# What a network for detection has and one for classification has not.
NEW_IN_DETECTION = r".+\.conv\.offset\.(weight|bias)"


def load_backbone(detector: Detector, source: str | Path | Mapping[str, Any] = "imagenet") -> None:
    """Load ImageNet weights into a detector's backbone, strictly.

    Args:
        source: "imagenet" for those that the entry was trained from, or what is nearest to them and
            still to be had; a name of `configs/imagenet`; or a file or mapping in the format of the
            entry's.

    The first convolution is rewritten where the weights were trained on another channel order or
    normalisation than the detector's; so is the mean of its norm.

    Raises:
        CheckpointError: lists every tensor that is missing, unexpected or misshapen; the backbone
            is then as it was.
        LookupError: no ImageNet weights of that name, or none are known for the entry.
    """
    own = detector.card.config.get("imagenet") if detector.card else None
    facts: dict[str, Any] = {}
    if isinstance(source, Mapping):
        content: Any = source
        facts = _facts(own) if own else {}
    elif source == "imagenet" or (CONFIGS / "imagenet" / f"{source}.yaml").is_file():
        name = own if source == "imagenet" else str(source)
        if name is None:
            raise LookupError("no ImageNet weights are known for this entry: name a file instead")
        facts = _facts(name)
        content = read(fetch(*_file(facts)))
    elif Path(source).is_file():
        content = read(Path(source))
        facts = _facts(own) if own else {}
    else:
        known = ", ".join(sorted(path.stem for path in (CONFIGS / "imagenet").glob("*.yaml")))
        raise LookupError(f"no ImageNet weights {str(source)!r}: a file, or one of {known}")
    _check_stride(detector, facts)
    state = translate(detector, _blobs(content))
    if facts.get("input"):
        _adapt_stem(detector, state, facts["input"])
    detector.backbone.load_state_dict(state, strict=False)


def translate(detector: Detector, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A classification network's state under the backbone's own keys; see `load_backbone`."""
    backbone: Any = detector.backbone
    wanted: dict[str, Tensor] = backbone.state_dict()
    complaints = []
    for rules in _lineages(type(backbone)):
        names = {key: rename(key, (*CLASSIFIER, *rules)) for key in state}
        ours = {name: state[key] for key, name in names.items() if name in wanted}
        _complete_norms(backbone, ours)
        unexpected = [
            key
            for key, name in names.items()
            if name is None or (name and name not in wanted and not name.endswith(COUNTER))
        ]
        missing = [
            key
            for key in wanted
            if key not in ours
            and not key.endswith(COUNTER)
            and not re.fullmatch(f"{NEW_IN_DETECTION}|{DLA_UNREAD}", key)
        ]
        misshapen = [key for key in ours if ours[key].shape != wanted[key].shape]
        faults = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
        if not any(faults.values()):
            return ours
        complaints.append(
            "; ".join(f"{len(v)} {k}: {', '.join(v)}" for k, v in faults.items() if v)
        )
    fewest = min(complaints, key=len)
    raise CheckpointError(
        f"these are no ImageNet weights of this {type(backbone).__name__}: {fewest}"
    )


def _lineages(backbone: type) -> list[Sequence[Rule]]:
    lineages = [BODIES.get(backbone, ())]
    if backbone is MobileNetV2:
        lineages.append(MOBILENET_V2_TORCHVISION)
    return [(*CAFFE2_RESNET, *rules) for rules in lineages]


def places(filename: str) -> list[FileSource]:
    """Where the ImageNet weights in a file of this name can be had; empty for any other file."""
    files = (_file(_facts(path.stem)) for path in (CONFIGS / "imagenet").glob("*.yaml"))
    return next((places for name, places in files if name == filename), [])


def _blobs(content: Any) -> dict[str, Tensor]:
    """The state within a file, keys bare: as in `unwrap`, or Caffe2's blobs less the solver's."""
    if isinstance(content, Mapping) and isinstance(content.get("blobs"), Mapping):
        content = {
            key: value
            for key, value in content["blobs"].items()
            if not key.endswith("_momentum") and hasattr(value, "shape")
        }
    if isinstance(content, Mapping):
        content = {
            k: v for k, v in content.items() if k not in ("__author__", "matching_heuristics")
        }
    return {re.sub(f"^{BODY}", "", key): value for key, value in unwrap(content).items()}


def _complete_norms(backbone: Any, ours: dict[str, Tensor]) -> None:
    """Give norms that are mere affine maps, Caffe2's, statistics that change nothing."""
    for name, module in backbone.named_modules():
        if f"{name}.weight" in ours and hasattr(module, "running_var"):
            weight = ours[f"{name}.weight"]
            ours.setdefault(f"{name}.running_mean", torch.zeros_like(weight))
            ours.setdefault(f"{name}.running_var", torch.ones_like(weight) - module.eps)


def _adapt_stem(detector: Detector, state: dict[str, Tensor], trained: Mapping[str, Any]) -> None:
    """Rewrite the first convolution, W x' = W (a x + b), for the detector's input x.

    Inputs of one kind, whose means differ by half a grey level as those of Caffe2 and detectron2,
    are left alone, as they were when the published detectors were trained.
    """
    normalizer = detector.normalizer
    mean, std = torch.tensor(trained["mean"]), torch.tensor(trained["std"])
    if trained["channel_order"] != normalizer.channel_order:
        mean, std = mean.flip(0), std.flip(0)
    scale = trained["value_range"] / normalizer.value_range
    own_mean, own_std = normalizer.mean.flatten().cpu(), normalizer.std.flatten().cpu()
    a = own_std * scale / std
    b = (own_mean * scale - mean) / std
    same_order = trained["channel_order"] == normalizer.channel_order
    if same_order and torch.allclose(a, torch.ones(3), atol=0.02):
        return
    key = next(k for k in state if state[k].ndim == 4 and state[k].shape[1] == 3)
    weight = state[key].float()
    if not same_order:
        weight = weight.flip(1)
    mean_key = key.replace("conv.weight", "norm.running_mean")
    state[mean_key] = state[mean_key] - (weight.sum((2, 3)) * b).sum(1)
    state[key] = weight * a.view(1, 3, 1, 1)


def _check_stride(detector: Detector, facts: Mapping[str, Any]) -> None:
    has = getattr(detector.backbone, "stride_in_1x1", None)
    needs = facts.get("stride_in_1x1")
    if has is not None and needs is not None and has != needs:
        places = {True: "the first 1x1 convolution", False: "the 3x3 convolution"}
        raise CheckpointError(
            f"these weights were trained with the stride of a stage in {places[needs]}, "
            f"this backbone has it in {places[has]}: choose weights of its own kind"
        )


def _facts(name: str) -> dict[str, Any]:
    return load_yaml(CONFIGS / "imagenet" / f"{name}.yaml")


def _file(facts: Mapping[str, Any]) -> tuple[str, list[FileSource]]:
    """What the file is called in the cache, and where it can be had."""
    places = [source_of(place) for place in facts["weights"]]
    filename = facts.get("filename") or places[0].url.split("?")[0].rsplit("/", 1)[-1]
    return filename, places
