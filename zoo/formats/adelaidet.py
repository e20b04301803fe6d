"""AdelaiDet's checkpoints, as detectron2 writes them."""

from __future__ import annotations

from collections.abc import Sequence

from zoo.formats.head import HEAD
from zoo.formats.rules import Levels, Rule, nested

NAME = "AdelaiDet (detectron2)"
MARKER = r"proposal_generator\.fcos_head\..+"
# Stored by detectron2 of some dates; they must agree with the entry's, which `load` checks.
IGNORED = r"pixel_(mean|std)"


def rules(body: Sequence[Rule], levels: Levels) -> list[Rule]:
    """Rules for a body's keys under `backbone.bottom_up.` and a pyramid's."""
    return [
        nested(r"backbone\.bottom_up\.", body, "backbone."),
        (
            r"backbone\.fpn_(lateral|output)(\d)\.(\w+)",
            lambda m: f"pyramid.{m[1]}.{int(m[2]) - levels.first_stage}.{m[3]}",
        ),
        (
            r"backbone\.top_block\.p(\d)\.(\w+)",
            lambda m: f"pyramid.extra.{int(m[1]) - 6}.{m[2]}",
        ),
        nested(r"proposal_generator\.fcos_head\.", HEAD, ""),
    ]
