"""Keys of ResNet bodies, as detectron2 and as maskrcnn-benchmark and torchvision name them."""

from __future__ import annotations

import re

from zoo.formats.rules import Rule


def _detectron2(match: re.Match[str]) -> str:
    return f"stages.{int(match['stage']) - 2}.{match['block']}.{_part(match['rest'])}"


def _torchvision(match: re.Match[str]) -> str:
    return f"stages.{int(match['stage']) - 1}.{match['block']}.{_part(match['rest'])}"


def _part(rest: str) -> str:
    """A block's own key: `conv2.norm.weight`, `bn2.weight`, `downsample.1.bias`, ..."""
    for pattern, replacement in _BLOCK:
        match = re.fullmatch(pattern, rest)
        if match:
            return match.expand(replacement)
    return rest


_BLOCK = (
    (r"conv2_offset\.(\w+)", r"conv2.conv.offset.\1"),
    (r"conv2\.offset\.(\w+)", r"conv2.conv.offset.\1"),
    (r"conv2\.conv\.weight", r"conv2.conv.weight"),
    (r"conv(\d)\.weight", r"conv\1.conv.weight"),
    (r"bn(\d)\.(\w+)", r"conv\1.norm.\2"),
    (r"(?:shortcut|downsample\.0)\.weight", r"shortcut.conv.weight"),
    (r"downsample\.1\.(\w+)", r"shortcut.norm.\1"),
)

RESNET: tuple[Rule, ...] = (
    (r"(?:stem\.)?conv1\.weight", "stem.conv.weight"),
    (r"(?:stem\.)?(?:conv1\.norm|bn1)\.(\w+)", r"stem.norm.\1"),
    (r"res(?P<stage>\d)\.(?P<block>\d+)\.(?P<rest>.+)", _detectron2),
    (r"layer(?P<stage>\d)\.(?P<block>\d+)\.(?P<rest>.+)", _torchvision),
)
