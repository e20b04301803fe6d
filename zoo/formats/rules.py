"""How a format's keys become ours: ordered patterns, the first that matches the whole key wins."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

Rule: TypeAlias = tuple[str, str | Callable[[re.Match[str]], str]]


class Levels(NamedTuple):
    """What the names of a pyramid's tensors depend on.

    `first_stage` of the body that it takes, of stride 2 ** `first_stage`; `outputs`: convolutions
    that make levels of the body's features, before those of extra levels.
    """

    first_stage: int
    outputs: int


def rename(key: str, rules: Iterable[Rule]) -> str | None:
    """The key under the first matching rule; "" leaves the tensor out, None: no rule matches."""
    for pattern, replacement in rules:
        match = re.fullmatch(pattern, key)
        if match:
            return replacement(match) if callable(replacement) else match.expand(replacement)
    return None


def nested(outer: str, rules: Iterable[Rule], prefix: str) -> Rule:
    """A rule for keys under `outer` (a pattern): the rest goes through `rules`, under `prefix`."""
    inner = tuple(rules)

    def replace(match: re.Match[str]) -> str:
        name = rename(match["rest"], inner)
        if name is None:
            return match[0]  # unknown, under a name that no detector has
        return prefix + name if name else ""

    return f"{outer}(?P<rest>.+)", replace
