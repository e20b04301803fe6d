"""Everything about one entry: `fcos-zoo info`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
import yaml

import zoo
from fcos.text import TextConsole
from tools.arguments import Model
from zoo.sources import FileSource


def info(
    name: Model,
    count: Annotated[bool, typer.Option("--parameters", help="Also count the parameters.")] = False,
) -> None:
    """Show an entry: its source, license, weights, published figures and every setting."""
    card = zoo.card(name)
    # Lists in YAML look like markup, and a folded link cannot be copied.
    console = TextConsole(soft_wrap=True)
    facts = [
        ("system", f"{card.family}, {card.repository}"),
        ("config there", card.source),
        ("license", card.license),
        *(("dead link" if each.dead else "weights", _facts(each)) for each in card.weights),
        *([("parameters", f"{parameters_of(card) / 1e6:.2f} M")] if count else []),
    ]
    console.print(card.name, style="bold")
    for what, fact in facts:
        console.print(f"  {what:<16}  {fact}")
    for table, row in card.tables:
        cells = [f"{c.heading} {c.text(row[c.key])}" for c in table.columns if c.unit != "url"]
        console.print(
            f"\npublished: {table.title} ({table.source.date or 'no date'})", style="bold"
        )
        console.print("  " + " · ".join(cells))
        console.print(f"  {table.source.url}")
    config = {key: value for key, value in card.config.items() if key not in ("classes", "weights")}
    console.print("\nconfiguration", style="bold")
    console.print(yaml.safe_dump(config, sort_keys=False, default_flow_style=None))


def parameters_of(card: zoo.Card) -> int:
    """The number of the model's parameters; loads torch to count them."""
    from zoo.config import build_detector

    return sum(each.numel() for each in build_detector(card.config, empty=True).parameters())


def _facts(source: FileSource) -> str:
    """The address, then size, hash and note of its file."""
    size = f"{source.size:,} bytes" if source.size else ""
    digest = f"sha256 {source.digest}" if source.digest else ""
    return " ".join([source.url, *(f"({fact})" for fact in (size, digest, source.note) if fact)])


if __name__ == "__main__":
    from tools.cli import main

    sys.exit(main(["info", *sys.argv[1:]]))
