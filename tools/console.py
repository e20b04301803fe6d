"""The console of the commands, which prints text from outside as text."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from fcos.text import printable


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
