"""Words of the command line such as `solver.base_lr=0.02`, before Hydra reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

# Settings whose values are text as it stands: a path may have characters of Hydra's grammar.
TEXTS = (
    *("data.root", "data.train", "data.train_images", "data.test", "data.test_images"),
    *("init.checkpoint", "init.backbone", "run.folder"),
)


def without_texts(overrides: Sequence[str]) -> tuple[list[str], dict[str, str | None]]:
    """Overrides for Hydra, and the settings that are text, by their names.

    "null" stands for None, and quotes around a text are taken off.
    """
    others: list[str] = []
    texts: dict[str, str | None] = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        key = key.lstrip("+")
        if not (equals and key in TEXTS):
            others.append(_addable(override))
        elif value in ("null", ""):
            texts[key] = None
        else:
            quoted = re.fullmatch(r"(['\"])(.*)\1", value, re.DOTALL)
            texts[key] = quoted[2] if quoted else value
    return others, texts


def set_texts(config: Mapping[str, Any], texts: Mapping[str, str | None]) -> dict[str, Any]:
    """The configuration with the texts of `without_texts`."""
    changed = dict(config)
    for key, value in texts.items():
        section, _, name = key.partition(".")
        changed[section] = {**(changed[section] or {}), name: value}
    return changed


def _addable(override: str) -> str:
    """An override that may also set what the configuration leaves at its default.

    Hydra would ask for a "+" there, also before a name that is misspelt. Whether a setting exists
    is checked later, against the signature of what it is for.
    """
    key = override.partition("=")[0].lstrip("+")
    plain = re.fullmatch(r"[\w.]+", key) and "." in key and not key.startswith("hydra.")
    return f"++{override.lstrip('+')}" if plain and "=" in override else override
