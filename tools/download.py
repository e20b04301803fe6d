"""Fetch published weights into the cache."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

import zoo
from zoo.build import fetch_weights


def main(arguments: Sequence[str] | None = None) -> int:
    """Download every named entry; failures do not stop the others, and are told at the end."""
    parser = argparse.ArgumentParser(prog="fcos-zoo download", description=__doc__)
    parser.add_argument("names", nargs="+", help="entries; shell wildcards are allowed")
    options = parser.parse_args(arguments)
    console = Console(soft_wrap=True, markup=False, highlight=False)
    failures = 0
    for pattern in options.names:
        for name in zoo.names(pattern) or [pattern]:
            try:
                console.print(f"{name}: {fetch_weights(zoo.card(name))}")
            except (LookupError, zoo.WeightsError) as error:
                failures += 1
                console.print(f"{name}: {error}", style="red")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
