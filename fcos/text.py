"""Text for the terminal: counts with nouns, and untrusted names made safe to print."""

from __future__ import annotations

import re
from typing import Any

from rich.console import Console
from rich.containers import Lines
from rich.table import Column, Table
from rich.text import Text


def printable(text: object) -> str:
    """Return the text in one line, with its control characters escaped.

    Print it without markup, since a name may contain brackets.
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in str(text)
    )


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: "1 image", "1,200 images"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def bounded(text: str) -> str:
    """Return the text, shortened and with its control characters escaped.

    Words are cut to 200 characters, and the whole to 20,000.
    """
    lines = re.sub(r"(\S{200})\S*", r"\1...", text).split("\n")
    whole = "\n".join(map(printable, lines))
    return whole if len(whole) <= 20_000 else f"{whole[:20_000]}..."


class TextConsole(Console):
    """Prints strings as they are, also in tables.

    Brackets and `:names:` are not interpreted, and of control characters only line breaks reach the
    terminal, since names of classes and files and answers of hosts are not trusted.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return the string as rich prints it; also called for the cells of tables."""
        return super().render_str("\n".join(map(printable, text.split("\n"))), **options)


class Name(Text):
    """A name that is wrapped after `_`, `/` or a blank in a narrow table column."""

    def wrap(self, console: Console, width: int, **options: Any) -> Lines:
        ends, start = [], 0
        while len(self.plain) - start > width:
            part = self.plain[start : start + width]
            start += max(part.rfind(mark) for mark in "_/ ") + 1 or width
            ends.append(start)
        return self.divide(ends)


def plain_table(*headings: Column | str, **options: Any) -> Table:
    """Return a table without lines between its cells."""
    style: dict[str, Any] = {"box": None, "pad_edge": False, "padding": (0, 2, 0, 0)}
    return Table(*headings, header_style="bold", **style, **options)
