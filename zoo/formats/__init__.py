"""How others wrote their checkpoints: published keys -> ours, strictly, recognised from the keys.

A format is a module with `NAME`, `MARKER` (a pattern that some key of it, and of no other,
matches), `IGNORED` (keys that hold nothing learned) and `rules(body, levels)`; one whose tensors
differ too has `prepare(state)`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backbones import DLA, HRNet, MobileNetV2, ResNet, VoVNet
from fcos import Detector
from zoo.formats import (
    adelaidet,
    bodies,
    maskrcnn_benchmark,
    native,
    openmmlab,
    torchvision,
    xytpai,
)
from zoo.formats.rules import Levels, Rule, rename

FORMATS: tuple[ModuleType, ...] = (
    native,
    adelaidet,
    maskrcnn_benchmark,
    xytpai,
    openmmlab,
    torchvision,
)
BODIES: dict[type, Sequence[Rule]] = {
    ResNet: bodies.RESNET,
    HRNet: bodies.HRNET,
    VoVNet: bodies.VOVNET,
    DLA: bodies.DLA,
    MobileNetV2: bodies.MOBILENET_V2,
}
# Counters that no published system reads; detectron2 wrote them at some dates and not at others.
COUNTER = ".num_batches_tracked"
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class CheckpointError(ValueError):
    """A checkpoint that does not fit the detector; the message lists every tensor at fault."""


def unwrap(content: Any) -> dict[str, Tensor]:
    """The state dict within a checkpoint: bare, or under "model" or "state_dict", with or without
    the `module.` of data-parallel training and the `_orig_mod.` of torch.compile; arrays become
    tensors.

    Raises:
        CheckpointError: it is none, or a tensor of it has no plain values.
    """
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError("the checkpoint holds no state dict: expected {key: tensor}")
    state = {key: _tensor(key, value) for key, value in content.items()}
    bare = {key.replace("_orig_mod.", "").removeprefix("module."): key for key in state}
    return {name: state[key] for name, key in bare.items()} if len(bare) == len(state) else state


def recognise(keys: Iterable[str]) -> ModuleType:
    """The format of a checkpoint with these keys; CheckpointError says what they look like."""
    keys = list(keys)
    for form in FORMATS:
        if any(re.fullmatch(form.MARKER, key) for key in keys):
            return form
    raise CheckpointError(f"no FCOS checkpoint of a known format: {_describe_checkpoint(keys)}")


def prepare(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with its tensors as our modules take them, still under the published keys."""
    form = recognise(state)
    return form.prepare(state) if hasattr(form, "prepare") else dict(state)


def translate(keys: Iterable[str], detector: Detector) -> dict[str, str | None]:
    """Our key for each published one; None for those that are to be ignored.

    A key that no rule knows keeps its own name, which the detector will not have.
    """
    keys = list(keys)
    form = recognise(keys)
    body = BODIES.get(type(detector.backbone), ())
    pyramid: Any = detector.pyramid
    levels = Levels(round(math.log2(detector.backbone.strides[0])), len(pyramid.output))
    rules = form.rules(body, levels)
    names: dict[str, str | None] = {}
    for key in keys:
        name = "" if re.fullmatch(form.IGNORED, key) else rename(key, rules)
        names[key] = key if name is None else name or None
    return names


def load_state(detector: Detector, state: Mapping[str, Tensor]) -> None:
    """Copy a published state into a detector, all of it or nothing.

    Raises:
        CheckpointError: listing every missing, unexpected and misshapen tensor, and those whose
            values are of another kind, such as quantised integers, or not finite.
    """
    state = prepare(state)
    names = translate(state, detector)
    _check_pixels(detector, state)
    wanted = detector.state_dict()
    ours: dict[str, Tensor] = {}
    unexpected, misshapen, odd, infinite = [], [], [], []
    for key, name in names.items():
        if name is None or (name.endswith(COUNTER) and name not in wanted):
            continue
        if name not in wanted or name in ours:
            unexpected.append(key)
        elif state[key].shape != wanted[name].shape:
            misshapen.append(f"{key} {_shape(state[key])} instead of {_shape(wanted[name])}")
        elif not _alike(state[key], wanted[name]):
            odd.append(f"{key} {state[key].dtype} instead of {wanted[name].dtype}")
        elif not (state[key].is_meta or state[key].isfinite().all()):
            infinite.append(key)
        else:
            ours[name] = state[key]
    arrived = set(names.values())
    missing = [name for name in wanted if name not in arrived and not name.endswith(COUNTER)]
    faults = {
        "missing": missing,
        "unexpected": unexpected,
        "of another shape": misshapen,
        "of another kind": odd,
        "not finite": infinite,
    }
    if any(faults.values()):
        lists = [f"{len(v)} {k}: {', '.join(v)}" for k, v in faults.items() if v]
        entry = detector.card.name if detector.card else "this detector"
        form = recognise(state).NAME
        raise CheckpointError(f"the {form} checkpoint does not fit {entry}: {'; '.join(lists)}")
    detector.load_state_dict(ours, strict=False)


def _tensor(key: Any, value: Any) -> Tensor:
    """A checkpoint's value as a tensor whose values can be copied into another."""
    if not isinstance(key, str) or not hasattr(value, "shape"):
        raise CheckpointError(
            f"the checkpoint's {key!r} is not a tensor but {type(value).__name__}: "
            'give the state dict alone, {key: tensor}, bare or under "model" or "state_dict"'
        )
    if not isinstance(value, Tensor):
        array = np.asarray(value)
        try:
            return torch.as_tensor(array.astype(array.dtype.newbyteorder("="), copy=False))
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"the checkpoint's {key!r} is not a tensor: {error}") from None
    if value.layout != torch.strided or value.is_quantized or value.is_nested or value.is_meta:
        raise CheckpointError(
            f"the checkpoint's {key!r} is a sparse, quantised, nested or meta tensor: "
            "save its plain values"
        )
    return value


def _alike(theirs: Tensor, ours: Tensor) -> bool:
    """Whether their values mean what ours do, in whatever precision."""
    return theirs.dtype in FLOATS if ours.is_floating_point() else not theirs.is_complex()


def _check_pixels(detector: Detector, state: Mapping[str, Tensor]) -> None:
    for key, expected in (
        ("pixel_mean", detector.normalizer.mean),
        ("pixel_std", detector.normalizer.std),
    ):
        if key not in state:
            continue
        theirs, ours = state[key].flatten().tolist(), expected.flatten().tolist()
        if len(theirs) != len(ours) or not np.allclose(theirs, ours):
            raise CheckpointError(
                f"the checkpoint's {key} {theirs} is not this entry's {ours}: "
                "it belongs to another model"
            )


def _describe_checkpoint(keys: Sequence[str]) -> str:
    if any("roi_heads" in key for key in keys):
        return "it looks like a two-stage detector (Faster or Mask R-CNN)"
    if any(re.match(r"(fc|classifier|head\.fc)\.", key) for key in keys):
        return "it looks like a classification network"
    return f"its keys are like {', '.join(sorted(keys)[:3])}"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
