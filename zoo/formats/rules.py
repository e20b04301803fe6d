"""How a format's keys become ours: ordered patterns, the first that matches the whole key wins."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TypeAlias

Rule: TypeAlias = tuple[str, str | Callable[[re.Match[str]], str]]


def rename(key: str, rules: Iterable[Rule]) -> str | None:
    """The key under the first matching rule, or None where none matches."""
    for pattern, replacement in rules:
        match = re.fullmatch(pattern, key)
        if match:
            return replacement(match) if callable(replacement) else match.expand(replacement)
    return None


def nested(outer: str, rules: Iterable[Rule], prefix: str) -> Rule:
    """A rule for keys under `outer` (a pattern): the rest goes through `rules`, under `prefix`."""
    inner = tuple(rules)
    return f"{outer}(?P<rest>.+)", lambda match: prefix + (rename(match["rest"], inner) or "?")
