"""Text from outside, such as names of classes and files, made safe for a terminal."""

from __future__ import annotations


def printable(text: object) -> str:
    """The text in one line, with its control characters escaped.

    Print it without markup: a name may hold brackets.
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in str(text)
    )
