"""OpenMMLab's checkpoints (mmdetection): `state_dict` with `backbone.`, `neck.`, `bbox_head.`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from zoo.formats.rules import Levels, Rule, nested

NAME = "OpenMMLab (mmdetection)"
MARKER = r"bbox_head\.(conv|fcos)_centerness\.weight"
IGNORED = ""

TOWERS = {"cls": "cls_tower", "reg": "box_tower"}
# Their names until version 2.0, `fcos_*`, and since.
PREDICTORS = {"cls": "cls_logits", "reg": "box_pred", "centerness": "quality"}


def prepare(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Scales of levels, which are scalars there, as vectors of one."""
    return {
        key: value.view(1) if key.endswith(".scale") and value.dim() == 0 else value
        for key, value in state.items()
    }


def rules(body: Sequence[Rule], levels: Levels) -> list[Rule]:
    """Rules for a body's keys under `backbone.`; the pyramid counts its levels from 0."""

    def output(index: int) -> str:
        extra = index - levels.outputs
        return f"output.{index}" if extra < 0 else f"extra.{extra}"

    return [
        nested(r"backbone\.", body, "backbone."),
        (r"neck\.lateral_convs\.(\d)\.conv\.(\w+)", r"pyramid.lateral.\1.\2"),
        (r"neck\.reduction_conv\.conv\.(\w+)", r"pyramid.reduction.\1"),
        (r"neck\.fpn_convs\.(\d)\.conv\.(\w+)", lambda m: f"pyramid.{output(int(m[1]))}.{m[2]}"),
        (
            r"bbox_head\.(cls|reg)_convs\.(\d)\.conv\.(weight|bias)",
            lambda m: f"head.{TOWERS[m[1]]}.{m[2]}.conv.{m[3]}",
        ),
        (
            r"bbox_head\.(cls|reg)_convs\.(\d)\.conv\.conv_offset\.(\w+)",
            lambda m: f"head.{TOWERS[m[1]]}.{m[2]}.conv.offset.{m[3]}",
        ),
        (
            r"bbox_head\.(cls|reg)_convs\.(\d)\.gn\.(\w+)",
            lambda m: f"head.{TOWERS[m[1]]}.{m[2]}.norm.{m[3]}",
        ),
        (
            r"bbox_head\.(?:conv|fcos)_(cls|reg|centerness)\.(\w+)",
            lambda m: f"head.{PREDICTORS[m[1]]}.{m[2]}",
        ),
        (r"bbox_head\.scales\.(\d)\.scale", r"head.scales.\1"),
    ]
