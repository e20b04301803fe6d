"""Text for a terminal: numbers of things, and names of classes and files made safe."""

from __future__ import annotations

import re


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


def bounded(text: str, word: int = 200, length: int = 20_000) -> str:
    """The text with its control characters escaped, cut to a length; so are its words.

    Args:
        text: of any length, as that of a name in a file may be.
        word: the longest word, in characters.
        length: of the whole text.
    """
    lines = re.sub(rf"\S{{{word},}}", lambda match: f"{match[0][:word]}...", text).split("\n")
    whole = "\n".join(map(printable, lines))
    return whole if len(whole) <= length else f"{whole[:length]}..."
