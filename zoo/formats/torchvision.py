"""torchvision's `fcos_resnet50_fpn` checkpoints."""

from __future__ import annotations

import re
from collections.abc import Sequence

from zoo.formats.rules import Levels, Rule, nested

NAME = "torchvision"
MARKER = r"head\.classification_head\.cls_logits\.weight"
IGNORED = ""

TOWERS = {"classification": "cls_tower", "regression": "box_tower"}
PREDICTORS = {"cls_logits": "cls_logits", "bbox_reg": "box_pred", "bbox_ctrness": "quality"}
PARTS = {"inner": "lateral", "layer": "output"}


def rules(body: Sequence[Rule], levels: Levels) -> list[Rule]:
    """Rules for a body under `backbone.body.`; the pyramid counts from 0, its convolutions stand
    alone or, since 2022, as the first of a block."""

    def tower(match: re.Match[str]) -> str:
        layer, part = divmod(int(match[2]), 3)
        return f"head.{TOWERS[match[1]]}.{layer}.{'norm' if part else 'conv'}.{match[3]}"

    return [
        nested(r"backbone\.body\.", body, "backbone."),
        (
            r"backbone\.fpn\.(inner|layer)_blocks\.(\d)(?:\.0)?\.(\w+)",
            lambda m: f"pyramid.{PARTS[m[1]]}.{m[2]}.{m[3]}",
        ),
        (
            r"backbone\.fpn\.extra_blocks\.p(\d)\.(\w+)",
            lambda m: f"pyramid.extra.{int(m[1]) - 6}.{m[2]}",
        ),
        (r"head\.(classification|regression)_head\.conv\.(\d+)\.(\w+)", tower),
        (
            r"head\.\w+_head\.(cls_logits|bbox_reg|bbox_ctrness)\.(\w+)",
            lambda m: f"head.{PREDICTORS[m[1]]}.{m[2]}",
        ),
    ]
