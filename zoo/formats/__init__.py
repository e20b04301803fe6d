"""How others wrote their checkpoints: published keys -> ours, strictly, recognised from the keys.

A format is a module with `NAME`, `MARKER` (a pattern that some key of it, and of no other,
matches), `IGNORED` (keys that hold nothing learned) and `rules(body, first_stage)`; one whose
tensors differ too has `prepare(state)`.
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
from zoo.formats.rules import Rule, rename

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


class CheckpointError(ValueError):
    """A checkpoint that does not fit the detector; the message lists every tensor at fault."""


def unwrap(content: Any) -> dict[str, Tensor]:
    """The state dict within a checkpoint: bare, or under "model" or "state_dict", with or without
    the `module.` of data-parallel training; arrays become tensors."""
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError("the checkpoint holds no state dict: expected {key: tensor}")
    state = {}
    for key, value in content.items():
        if not isinstance(key, str) or not hasattr(value, "shape"):
            raise CheckpointError(
                f"the checkpoint's {key!r} is no tensor but {type(value).__name__}"
            )
        state[key] = value if isinstance(value, Tensor) else torch.as_tensor(value)
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def recognise(keys: Iterable[str]) -> ModuleType:
    """The format of a checkpoint with these keys; CheckpointError says what they look like."""
    keys = list(keys)
    for form in FORMATS:
        if any(re.fullmatch(form.MARKER, key) for key in keys):
            return form
    raise CheckpointError(f"no FCOS checkpoint of a known format: {_looks_like(keys)}")


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
    rules = form.rules(body, round(math.log2(detector.backbone.strides[0])))
    names: dict[str, str | None] = {}
    for key in keys:
        name = "" if re.fullmatch(form.IGNORED, key) else rename(key, rules)
        names[key] = key if name is None else name or None
    return names


def load_state(detector: Detector, state: Mapping[str, Tensor]) -> None:
    """Copy a published state into a detector, all of it or nothing.

    Raises:
        CheckpointError: listing every missing, unexpected and misshapen tensor.
    """
    state = prepare(state)
    names = translate(state, detector)
    _check_pixels(detector, state)
    wanted = detector.state_dict()
    ours: dict[str, Tensor] = {}
    unexpected, misshapen = [], []
    for key, name in names.items():
        if name is None or (name.endswith(COUNTER) and name not in wanted):
            continue
        if name not in wanted or name in ours:
            unexpected.append(key)
        elif state[key].shape != wanted[name].shape:
            misshapen.append(f"{key} {_shape(state[key])} instead of {_shape(wanted[name])}")
        else:
            ours[name] = state[key]
    shapeless = {names[text.split(" ")[0]] for text in misshapen}
    missing = [
        name
        for name in wanted
        if name not in ours and name not in shapeless and not name.endswith(COUNTER)
    ]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    if any(faults.values()):
        lists = [f"{len(v)} {k}: {', '.join(v)}" for k, v in faults.items() if v]
        entry = detector.card.name if detector.card else "this detector"
        form = recognise(state).NAME
        raise CheckpointError(f"the {form} checkpoint does not fit {entry}: {'; '.join(lists)}")
    detector.load_state_dict(ours, strict=False)


def _check_pixels(detector: Detector, state: Mapping[str, Tensor]) -> None:
    for key, expected in (("pixel_mean", detector.images.mean), ("pixel_std", detector.images.std)):
        if key not in state:
            continue
        theirs, ours = state[key].flatten().tolist(), expected.flatten().tolist()
        if len(theirs) != len(ours) or not np.allclose(theirs, ours):
            raise CheckpointError(
                f"the checkpoint's {key} {theirs} is not this entry's {ours}: "
                "it belongs to another model"
            )


def _looks_like(keys: Sequence[str]) -> str:
    if any("roi_heads" in key for key in keys):
        return "it looks like a two-stage detector (Faster or Mask R-CNN)"
    if any(re.match(r"(fc|classifier|head\.fc)\.", key) for key in keys):
        return "it looks like a classification network"
    return f"its keys are like {', '.join(sorted(keys)[:3])}"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
