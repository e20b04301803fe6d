"""Settings as users write them: overrides such as `solver.base_lr=0.02`, before Hydra reads them,
and names that settings had in earlier versions."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString

# Settings whose values are plain text: a path may have characters of Hydra's grammar.
TEXTS = (
    *("data.root", "data.train", "data.train_images", "data.test", "data.test_images"),
    *("init.checkpoint", "init.backbone", "run.folder"),
)
FOLDERS = ("hydra.sweep.dir", "hydra.run.dir", "folder", "weights_folder")
PLAIN = re.compile(r"^$|^null$|\$\{|^(['\"]).*\1$", re.DOTALL)  # what needs no quotes, or has them
# Names that settings had in earlier versions, which still work.
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


def without_texts(overrides: Sequence[str]) -> tuple[list[str], dict[str, str | None]]:
    """Overrides for Hydra, and the settings that are text, by their names.

    "null" stands for None, and quotes around a text are taken off. `data=PATH` sets both the
    training and the test set, if the dataset has a split to evaluate on.
    """
    others: list[str] = []
    texts: dict[str, str | None] = {}
    dataset: dict[str, str | None] = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        key = key.lstrip("+")
        if key == "data" and equals:
            dataset = _dataset(without_quotes(value))
        elif not (equals and key in TEXTS):
            others.append(_addable(override))
        elif value in ("null", ""):
            texts[key] = None
        else:
            texts[key] = without_quotes(value)
    return others, {**dataset, **texts}


def quoted(overrides: Sequence[str]) -> list[str]:
    """Overrides for Hydra's own command line, with quotes around texts and folders.

    Of a text, commas and brackets make several values for a sweep, unless it is an existing path.
    """
    words: list[str] = []
    for override in overrides:
        key, equals, value = override.partition("=")
        swept = key in TEXTS and re.search("[,(]", value) and not Path(value).exists()
        if key == "data" and equals:
            dataset = _dataset(without_quotes(value))
            words[:0] = quoted([f"{name}={path or 'null'}" for name, path in dataset.items()])
        elif key in (*TEXTS, *FOLDERS) and not swept and not PLAIN.search(value):
            words.append(f"{key}={QuotedString(value, Quote.single).with_quotes()}")
        else:
            words.append(override)
    return words


def without_quotes(value: str) -> str:
    """A text without the quotes around it, which Hydra needs and a path may have."""
    quoted = None if Path(value).exists() else re.fullmatch(r"(['\"])(.*)\1", value, re.DOTALL)
    return quoted[2] if quoted else value


def _dataset(path: str) -> dict[str, str | None]:
    """The settings that `data=PATH` stands for: its split to train on and its split to evaluate on.

    Raises:
        FileNotFoundError: there is no dataset.
        ValueError: the names of its splits do not tell which is which.
    """
    from fcos.data.formats import choose_split, find_splits

    splits = find_splits(path)
    path = os.path.join(".", path)  # it may be called like a named dataset
    training, test = (choose_split(path, splits, training=which) for which in (True, False))
    return {"data.train": path, "data.test": path if test != training else None}


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


def _rename(override: str) -> str:
    prefix, key, rest = re.fullmatch(r"([+~]*)([^=]*)(.*)", override, re.DOTALL).groups()  # type: ignore[union-attr]
    return prefix + RENAMED.get(key, key) + rest
