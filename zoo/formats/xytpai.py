"""The centre-ness-free system's checkpoint: a bare state dict without a prefix."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from zoo.formats.rules import Levels, Rule, nested

NAME = "xytpai/fcos"
MARKER = r"conv_cls\.\d+\.weight"
# Grids of the published view, which are computed, and the classifier of the ImageNet network.
IGNORED = r"a_(center_yx|tlbr_max_minmax|center_offset_max)|backbone\.fc\..+"

TOWERS = {"cls": "cls_tower", "reg": "box_tower"}
PREDICTORS = {"cls": "cls_logits", "reg": "box_pred"}
TLBR_TO_LTRB = [1, 0, 3, 2]


def prepare(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One scale a level, and box predictions in our order: left, top, right, bottom; what is not
    there, or of another shape, stays so, for the strict comparison to name it."""
    state = dict(state)
    if "scale_div" in state and state["scale_div"].dim() == 1:
        for level, scale in enumerate(state.pop("scale_div").unbind()):
            state[f"scale_div.{level}"] = scale.view(1)
    for key in ("conv_reg.8.weight", "conv_reg.8.bias"):
        if key in state and state[key].shape[:1] == (4,):
            state[key] = state[key][TLBR_TO_LTRB]
    return state


def rules(body: Sequence[Rule], levels: Levels) -> list[Rule]:
    """Rules for a torchvision body under `backbone.`; towers of convolutions and ReLUs alone."""

    def tower(match: re.Match[str]) -> str:
        return f"head.{TOWERS[match[1]]}.{int(match[2]) // 2}.conv.{match[3]}"

    return [
        nested(r"backbone\.", body, "backbone."),
        (r"prj_(\d)\.(\w+)", lambda m: f"pyramid.lateral.{int(m[1]) - levels.first_stage}.{m[2]}"),
        (r"conv_(\d)\.(\w+)", lambda m: f"pyramid.output.{int(m[1]) - levels.first_stage}.{m[2]}"),
        (r"conv_out(\d)\.(\w+)", lambda m: f"pyramid.extra.{int(m[1]) - 6}.{m[2]}"),
        (r"conv_(cls|reg)\.8\.(\w+)", lambda m: f"head.{PREDICTORS[m[1]]}.{m[2]}"),
        (r"conv_(cls|reg)\.(\d)\.(\w+)", tower),
        (r"scale_div\.(\d)", r"head.scales.\1"),
    ]
