"""Keys of FCOS heads: the three published lineages number the towers' modules alike."""

from __future__ import annotations

import re

from zoo.formats.rules import Rule

TOWERS = {"cls": "cls_tower", "bbox": "box_tower", "share": "shared_tower"}


def _tower(match: re.Match[str]) -> str:
    """`cls_tower.<3i>` is the i-th convolution, `<3i + 1>` its norm; a ReLU stands at 3i + 2."""
    layer, part = divmod(int(match["index"]), 3)
    kind = "conv" if part == 0 else "norm"
    rest = match["rest"].removeprefix("conv.")
    return f"head.{TOWERS[match['tower']]}.{layer}.{kind}.{rest}"


# Under the head's own prefix, e.g. "rpn.head.".
HEAD: tuple[Rule, ...] = (
    (r"(?P<tower>cls|bbox|share)_tower\.(?P<index>\d+)\.(?P<rest>.+)", _tower),
    (r"cls_logits\.(.+)", r"head.cls_logits.\1"),
    (r"bbox_pred\.(.+)", r"head.box_pred.\1"),
    (r"(?:ctrness|centerness)\.(.+)", r"head.quality.\1"),
    (r"scales\.(\d+)\.scale", r"head.scales.\1"),
)
