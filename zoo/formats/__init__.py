"""Checkpoint formats of each code base, recognised by their keys and loaded strictly."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fcos import Detector
from fcos.text import bounded
from zoo.formats.backbones import TABLES, Rule, rename
from zoo.formats.detectors import NATIVE, PUBLISHED, Format

FORMATS = (NATIVE, *dict.fromkeys(PUBLISHED.values()))
# Counters that no published code reads; only some versions of detectron2 wrote them.
COUNTER = ".num_batches_tracked"
STATE_DICT = 'give only the state dict, {key: tensor}, bare or under "model" or "state_dict"'
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class CheckpointError(ValueError):
    """A checkpoint that does not fit the detector; the message lists every tensor at fault.

    Names come from the file: control characters are escaped, and very long names are cut.
    """

    def __init__(self, message: str) -> None:
        super().__init__(bounded(message))


def unwrap(content: Any) -> dict[str, Tensor]:
    """Return the state dict in a checkpoint: bare, or under "model" or "state_dict".

    The `module.` of data-parallel training and the `_orig_mod.` of torch.compile are removed from
    its keys; arrays become tensors.

    Raises:
        CheckpointError: it is not a state dict, or one of its tensors has no plain values.
    """
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError("the checkpoint holds no state dict: expected {key: tensor}")
    state = {key: _tensor(key, value) for key, value in content.items()}
    bare = {key.replace("_orig_mod.", "").removeprefix("module."): key for key in state}
    return {name: state[key] for name, key in bare.items()} if len(bare) == len(state) else state


def recognise(keys: Iterable[str]) -> Format:
    """Return the format of these keys; a CheckpointError says what unknown ones look like."""
    keys = list(keys)
    for form in FORMATS:
        if any(re.fullmatch(form.marker, key) for key in keys):
            return form
    if any("roi_head" in key for key in keys):
        what = "it looks like a two-stage detector (Faster or Mask R-CNN)"
    elif any(re.match(r"(fc|classifier|head\.fc)\.", key) for key in keys):
        what = "it looks like a classification network"
    else:
        what = f"its keys are like {', '.join(sorted(keys)[:3])}"
    raise CheckpointError(f"not an FCOS checkpoint of a known format: {what}")


def prepare(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a state's tensors to the form of our modules, still under the published keys."""
    return recognise(state).prepare(state)


def translate(keys: Iterable[str], detector: Detector) -> dict[str, str | None]:
    """Return our key for each published one, None for those to be ignored.

    A key that no rule matches keeps its name, which the detector does not have.
    """
    keys = list(keys)
    form = recognise(keys)
    if form is NATIVE:
        return {key: key for key in keys}
    pyramid: Any = detector.pyramid
    stage = round(math.log2(detector.backbone.strides[0]))
    rules = form.rules(TABLES.get(type(detector.backbone), ()), stage, len(pyramid.output))
    return renamed(keys, [(form.ignored, ""), *rules])


def renamed(keys: Iterable[str], rules: Sequence[Rule]) -> dict[str, str | None]:
    """Return each key's new name, the same if no rule matches, or None to leave it out."""
    names = {key: rename(key, rules) for key in keys}
    return {key: key if name is None else name or None for key, name in names.items()}


def num_classes(detector: Detector, state: Mapping[str, Tensor]) -> int | None:
    """Return the number of classes of a published state, None if it has no class predictor."""
    names = translate(state, detector).items()
    return next((state[key].numel() for key, name in names if name == "head.cls_logits.bias"), None)


def load_state(detector: Detector, state: Mapping[str, Tensor]) -> None:
    """Copy a published state into a detector, all of it or nothing.

    Raises:
        CheckpointError: the state does not fit; lists every missing, unexpected and misshapen
            tensor, and those whose values are of another kind, such as quantised integers, or not
            finite.
    """
    state = prepare(state)
    _check_pixels(detector, state)
    ours, faults = match(state, translate(state, detector), detector.state_dict())
    if faults:
        entry = detector.card.name if detector.card else "this detector"
        form = recognise(state).name
        raise CheckpointError(f"the {form} checkpoint does not fit {entry}: {faults}")
    detector.load_state_dict(ours, strict=False)


def match(
    state: Mapping[str, Tensor],
    names: Mapping[str, str | None],
    wanted: Mapping[str, Tensor],
    optional: str = rf".+{re.escape(COUNTER)}",
) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of a state under our names, and a clause that lists all faults.

    Args:
        state: the tensors by their published keys.
        names: our name for each key, None for keys to leave out.
        wanted: our tensors by name, with the required shapes and types.
        optional: a pattern for those that may be missing.

    Returns:
        The tensors, and "" or a clause that lists all that are missing, unexpected, of another
        shape or kind (such as quantised integers) or not finite.
    """
    ours: dict[str, Tensor] = {}
    present = set(names.values())
    faults: dict[str, list[str]] = {
        "missing": [n for n in wanted if n not in present and not re.fullmatch(optional, n)],
        **{kind: [] for kind in ("unexpected", "of another shape", "of another kind")},
        "not finite": [],
    }
    for key, name in names.items():
        if name is None or (name.endswith(COUNTER) and name not in wanted):
            continue
        if name not in wanted or name in ours:
            faults["unexpected"].append(key)
            continue
        value, own = state[key], wanted[name]
        if value.shape != own.shape:
            faults["of another shape"].append(f"{key} {_shape(value)} instead of {_shape(own)}")
        elif not (value.dtype in FLOATS if own.is_floating_point() else not value.is_complex()):
            faults["of another kind"].append(f"{key} {value.dtype} instead of {own.dtype}")
        elif not (value.is_meta or _is_finite(value)):
            faults["not finite"].append(key)
        else:
            ours[name] = value
    lists = [f"{len(keys)} {kind}: {', '.join(keys)}" for kind, keys in faults.items() if keys]
    return ours, "; ".join(lists)


def _tensor(key: Any, value: Any) -> Tensor:
    """Convert a checkpoint's value to a tensor whose values can be copied into another."""
    if not isinstance(key, str):
        raise CheckpointError(f"the checkpoint's key {key!r} is not text: {STATE_DICT}")
    if not hasattr(value, "shape"):
        raise CheckpointError(
            f"the checkpoint's {key!r} is not a tensor but {type(value).__name__}: {STATE_DICT}"
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


def _is_finite(values: Tensor) -> bool:
    # The sum is much faster; if it overflows, every value is checked.
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())


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


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
