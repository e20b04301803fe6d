"""Checkpoints of the maskrcnn-benchmark lineage: the original FCOS, HRNet-FCOS and VoVNet-FCOS."""

from __future__ import annotations

from collections.abc import Sequence

from zoo.formats.head import HEAD
from zoo.formats.rules import Levels, Rule, nested

NAME = "maskrcnn-benchmark"
MARKER = r"rpn\.head\.cls_logits\..+"
IGNORED = ""


def rules(body: Sequence[Rule], levels: Levels) -> list[Rule]:
    """Rules for a body's keys under `backbone.body.` and a pyramid's."""
    # fpn_inner<i> takes stage i + 1, counted from the stem as stage 1.
    parts = {"inner": "lateral", "layer": "output"}
    return [
        nested(r"backbone\.body\.", body, "backbone."),
        (
            r"backbone\.fpn\.fpn_(inner|layer)(\d)\.(\w+)",
            lambda m: f"pyramid.{parts[m[1]]}.{int(m[2]) + 1 - levels.first_stage}.{m[3]}",
        ),
        (
            r"backbone\.fpn\.top_blocks\.p(\d)\.(\w+)",
            lambda m: f"pyramid.extra.{int(m[1]) - 6}.{m[2]}",
        ),
        (r"backbone\.fpn\.reduction_conv\.0\.(\w+)", r"pyramid.reduction.\1"),
        (r"backbone\.fpn\.fpn_conv\.(\d)\.(\w+)", r"pyramid.output.\1.\2"),
        nested(r"rpn\.head\.", HEAD, ""),
    ]
