"""Names of the zoo's entries with their published figures."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

import zoo
from zoo import Card


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the entries that match, as a table or as JSON."""
    parser = argparse.ArgumentParser(prog="fcos-zoo list", description=__doc__)
    parser.add_argument("pattern", nargs="?", default="*", help="shell wildcards, e.g. 'FCOS_MS_*'")
    parser.add_argument("--license", choices=["permissive", "non-commercial"],
                        help="only entries whose weights may be used so")  # fmt: skip
    parser.add_argument("--served", action="store_true",
                        help="only entries whose weights somebody serves")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="machine-readable")
    options = parser.parse_args(arguments)
    names = zoo.names(options.pattern, options.license, options.served or None)
    cards = [zoo.card(name) for name in names]
    if not cards:
        raise LookupError(f"no entry matches {options.pattern!r}; `fcos-zoo list` shows all")
    if options.json:
        print(json.dumps([facts(card) for card in cards]))
        return 0
    table = Table(title=f"{len(cards)} entries, figures as published")
    table.add_column("entry", min_width=max(len(card.name) for card in cards))
    table.add_column("system")
    for heading in ("AP", "AP test-dev", "speed", "weights"):
        table.add_column(heading, justify="right")
    for card in cards:
        figures = card.published
        speed = f"{figures['fps']} FPS" if "fps" in figures else ""
        speed = f"{figures['time_ms']} ms" if "time_ms" in figures else speed
        ap, test_dev = (str(figures.get(key, "-")) for key in ("ap", "ap_test_dev"))
        table.add_row(
            card.name, card.family, ap, test_dev, speed or "-", "yes" if card.live else "-"
        )
    Console().print(table)
    return 0


def facts(card: Card) -> dict[str, Any]:
    """An entry in one flat mapping: what it is, its weights' terms, what was published."""
    terms = {"license": card.license, "permissive": card.permissive, "served": card.live}
    return {"name": card.name, "family": card.family, **terms, **card.published}


if __name__ == "__main__":
    sys.exit(main())
