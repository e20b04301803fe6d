"""Everything that is known of one entry."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import yaml
from rich.console import Console
from rich.table import Table

import zoo


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the card: facts, published figures with their sources, weights, configuration."""
    parser = argparse.ArgumentParser(prog="fcos-zoo info", description=__doc__)
    parser.add_argument("name", help="an entry, see `fcos-zoo list`")
    options = parser.parse_args(arguments)
    card = zoo.card(options.name)
    console = Console(markup=False, highlight=False)  # lists in YAML look like markup
    facts = Table(box=None, show_header=False, title=card.name, title_justify="left")
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("system", f"{card.family}, {card.repository}")
    facts.add_row("config there", card.source)
    facts.add_row("weights' licence", card.licence)
    for place in card.weights:
        facts.add_row("dead" if place.dead else "weights", place.url)
    detector = zoo.build(card.name)
    count = sum(parameter.numel() for parameter in detector.parameters())
    facts.add_row("parameters", f"{count / 1e6:.2f} M")
    console.print(facts)
    for table, row in card.tables:
        cells = [f"{c.heading} {c.text(row[c.key])}" for c in table.columns if c.unit != "url"]
        console.print(
            f"\npublished: {table.title} ({table.source.date or 'no date'})", style="bold"
        )
        console.print("  " + " · ".join(cells))
        console.print(f"  {table.source.url}", soft_wrap=True)
    config = {key: value for key, value in card.config.items() if key not in ("classes", "weights")}
    console.print("\nconfiguration", style="bold")
    console.print(yaml.safe_dump(config, sort_keys=False, default_flow_style=None), soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
