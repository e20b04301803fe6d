"""Settings that had another name before: overrides and configurations with it still work."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

RENAMED = {
    "data.group": "data.aspect_ratio_group_size",
    "loss.images_together": "loss.normalizer_group",
    "run.backbone": "init.backbone",
    "run.weights": "init.checkpoint",
    "solver.fused": "solver.fused_optimizer",
    "solver.nan": "solver.on_nonfinite",
    "solver.recompute": "solver.activation_checkpointing",
}


def rename_overrides(overrides: Sequence[str]) -> list[str]:
    """Hydra overrides such as `solver.nan=skip` or `~data.group`, with today's names."""
    return [_rename(override) for override in overrides]


def rename_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration in which settings have today's names.

    A setting of an old name replaces the default of today's.
    """
    renamed = {k: dict(v) if isinstance(v, Mapping) else v for k, v in config.items()}
    for old, new in RENAMED.items():
        section, _, key = old.partition(".")
        if key in (renamed.get(section) or {}):
            new_section, _, new_key = new.partition(".")
            renamed.setdefault(new_section, {})[new_key] = renamed[section].pop(key)
    return renamed


def _rename(override: str) -> str:
    prefix, key, rest = re.fullmatch(r"([+~]*)([^=]*)(.*)", override, re.DOTALL).groups()  # type: ignore[union-attr]
    return prefix + RENAMED.get(key, key) + rest
