"""Text for a terminal: numbers of things, and names of classes and files made safe."""

from __future__ import annotations

import re
from typing import Any

from rich.console import Console
from rich.containers import Lines
from rich.table import Column, Table
from rich.text import Text


def printable(text: object) -> str:
    """The text in one line, with its control characters escaped.

    Print it without markup: a name may hold brackets.
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in str(text)
    )


def counted(count: int, noun: str) -> str:
    """ "1 image", "1,200 images"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def bounded(text: str) -> str:
    """The text, which may hold a name of any length, with its control characters escaped.

    Words are cut to 200 characters, and the whole to 20,000.
    """
    lines = re.sub(r"(\S{200})\S*", r"\1...", text).split("\n")
    whole = "\n".join(map(printable, lines))
    return whole if len(whole) <= 20_000 else f"{whole[:20_000]}..."


class TextConsole(Console):
    """Prints strings as they are, also in tables.

    Brackets and `:names:` mean nothing, and of control characters only line breaks reach the
    terminal: names of classes and files, and answers of hosts, come from anywhere.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """The string as rich prints it; also called for the cells of tables."""
        return super().render_str("\n".join(map(printable, text.split("\n"))), **options)


class Name(Text):
    """A name that folds after `_`, `/` or a blank where its column of a table is narrow."""

    def wrap(self, console: Console, width: int, **options: Any) -> Lines:
        ends, start = [], 0
        while len(self.plain) - start > width:
            part = self.plain[start : start + width]
            start += max(part.rfind(mark) for mark in "_/ ") + 1 or width
            ends.append(start)
        return self.divide(ends)


def plain_table(*headings: Column | str, **options: Any) -> Table:
    """A table without lines between its cells."""
    style: dict[str, Any] = {"box": None, "pad_edge": False, "padding": (0, 2, 0, 0)}
    return Table(*headings, header_style="bold", **style, **options)
