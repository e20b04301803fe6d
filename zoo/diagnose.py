"""What a checkpoint holds that is not the expected one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from types import ModuleType

import torch
from torch import Tensor

from fcos import Detector
from zoo import formats
from zoo.config import build_detector
from zoo.formats.rules import Levels, rename
from zoo.registry import Card, card, names

LINEAGE = {
    "adelaidet": formats.adelaidet,
    "fcos": formats.maskrcnn_benchmark,
    "hrnet": formats.maskrcnn_benchmark,
    "vovnet": formats.maskrcnn_benchmark,
    "xytpai": formats.xytpai,
    "openmmlab": formats.openmmlab,
    "torchvision": formats.torchvision,
}


def describe_checkpoint(state: Mapping[str, Tensor], entry: Card | None = None) -> str:
    """What a published state dict looks like, in a clause; at worst it takes a few seconds.

    Args:
        entry: what it should be; it may be that for another number of classes.
    """
    if any(re.match(r"roi_heads?\.", key) for key in state):
        return "it looks like a two-stage detector (Faster or Mask R-CNN)"
    try:
        form = formats.recognise(state)
    except formats.CheckpointError as error:
        return str(error)
    if entry and form in (formats.native, LINEAGE.get(entry.family)) and _fits(entry, state):
        rows = _rows(build_detector(entry.config, empty=True), state)
        if rows not in (None, len(entry.config["classes"])):
            return (
                f"it is one of {rows} classes: zoo.build({entry.name!r}, num_classes={rows}), "
                "then zoo.load_checkpoint"
            )
    if form is formats.native:
        return "it looks like a detector that this project wrote, perhaps of another entry"
    fitting: list[str] = []
    for alike in _architectures(form, _body(form, state)):
        if _fits(alike[0], state):
            fitting += [entry.name for entry in alike]
    if not fitting:
        return f"it looks like a {form.NAME} checkpoint that fits no entry of the zoo"
    more = f" and {len(fitting) - 3} more" if len(fitting) > 3 else ""
    return f"its tensors are those of {', '.join(fitting[:3])}{more}"


def _body(form: ModuleType, state: Mapping[str, Tensor]) -> type:
    """The class of backbone whose rules know the most of the keys."""

    def known(body: type) -> int:
        rules = form.rules(formats.BODIES[body], Levels(3, 3))
        return sum(rename(key, rules) not in (None, key) for key in state)

    return max(formats.BODIES, key=known)


def _architectures(form: ModuleType, body: type) -> Iterator[list[Card]]:
    """The lineage's entries on that kind of body, those with the same tensors together."""
    found: dict[str, list[Card]] = {}
    kinds: dict[str, bool] = {}
    for name in names():
        if LINEAGE.get(card(name).family) is not form:
            continue
        backbone = card(name).backbone or name
        if backbone not in kinds:
            target = card(name).config["backbone"]["_target_"]
            kinds[backbone] = target.rpartition(".")[2] == body.__name__
        if kinds[backbone]:
            config = card(name).config
            network = [config[part] for part in ("backbone", "pyramid", "head", "images")]
            found.setdefault(json.dumps(network), []).append(card(name))
    yield from found.values()


def _rows(detector: Detector, state: Mapping[str, Tensor]) -> int | None:
    """The number of classes that a state predicts, None where nothing says it."""
    for key, ours in formats.translate(state, detector).items():
        if ours == "head.cls_logits.bias":
            return state[key].numel()
    return None


def _fits(entry: Card, state: Mapping[str, Tensor]) -> bool:
    """Whether names and shapes are the entry's, whatever the number of classes."""
    shapes = {
        key: value
        if key.startswith("pixel_")
        else torch.empty(value.shape, dtype=value.dtype, device="meta")
        for key, value in state.items()
    }
    detector = build_detector(entry.config, empty=True)
    rows = _rows(detector, state)
    if rows and rows != len(detector.classes):
        detector = build_detector(entry.config, rows, empty=True)
    try:
        formats.load_state(detector, shapes)
    except formats.CheckpointError:
        return False
    return True
