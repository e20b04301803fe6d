"""What this project writes: the detector's own state dict."""

from __future__ import annotations

from collections.abc import Sequence

from zoo.formats.rules import Levels, Rule

NAME = "fcos-zoo"
MARKER = r"head\.cls_tower\.0\.conv\.weight|head\.shared_tower\.0\.conv\.weight"
IGNORED = ""


def rules(body: Sequence[Rule], levels: Levels) -> list[Rule]:
    """Keys are ours already."""
    return [(r"(.+)", r"\1")]
