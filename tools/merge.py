"""Merge results files: `fcos-zoo bench merge OUT FILES...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.store import Store, newest, read
from tools.console import TextConsole


def merge(
    out: Annotated[Path, typer.Argument(help="Results file to which rows are appended.")],
    files: Annotated[list[Path], typer.Argument(help="Results files to read.")],
) -> None:
    """Merge results files: append the newest row of every case that OUT does not have."""
    store = Store(out)
    added = store.merge(row for file in files for row in newest(read([file])))
    console = TextConsole(soft_wrap=True)
    console.print(f"{added} rows added to {out}")
