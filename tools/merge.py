"""Merge results files: `fcos-zoo bench merge OUT FILES...`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.store import Store, newest, read


def main(arguments: Sequence[str] | None = None) -> int:
    """Append to OUT the newest row of every case of the files, unless OUT has it already."""
    parser = argparse.ArgumentParser(prog="fcos-zoo bench merge", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("files", nargs="+", type=Path)
    options = parser.parse_args(arguments)
    store = Store(options.out)
    added = store.merge(row for file in options.files for row in newest(read([file])))
    Console().print(f"{added} rows added to {options.out}", highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
