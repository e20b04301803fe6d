"""The zoo's entries with their published figures: `fcos-zoo list`."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any, Literal

import typer

import zoo
from fcos.text import TextConsole, plain_table
from zoo import Card


def list_entries(
    pattern: Annotated[
        str, typer.Argument(help="Only these names; shell wildcards, such as 'FCOS_MS_*'.")
    ] = "*",
    license: Annotated[
        Literal["permissive", "non-commercial"] | None,
        typer.Option(help="Only entries whose weights have this kind of license."),
    ] = None,
    served: Annotated[
        bool, typer.Option("--served", help="Only entries whose weights can be downloaded.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the zoo's entries with their published figures."""
    cards = [zoo.card(name) for name in zoo.names(pattern, license, served or None)]
    if not cards:
        options = " with these options" if license or served else ""
        raise LookupError(f"no entry matches {pattern!r}{options}; `fcos-zoo list` shows all")
    if as_json:
        print(json.dumps([facts(card) for card in cards]))
        return
    table = plain_table()
    table.add_column("entry", min_width=max(len(card.name) for card in cards))
    table.add_column("system")
    for heading in ("AP", "test-dev", "ms", "weights"):
        table.add_column(heading, justify="right")
    for card in cards:
        ap, test_dev = (str(card.published.get(key, "-")) for key in ("ap", "ap_test_dev"))
        live = "yes" if card.live else "-"
        table.add_row(card.name, card.family, ap, test_dev, milliseconds(card), live)
    noun = "entry" if len(cards) == 1 else "entries"
    console = TextConsole()
    console.print(table)
    console.print(f"{len(cards)} {noun}; weights: yes if they can be downloaded")
    console.print("AP on val2017 or minival, AP on test-dev, and ms per image are as published,")
    console.print("the times on different GPUs")


def milliseconds(card: Card) -> str:
    """Return the published time per image, which some pages print as images per second."""
    figures = card.published
    fps = figures.get("fps")
    if "time_ms" not in figures and isinstance(fps, float | int):
        return f"{1000 / fps:.0f}"
    return str(figures.get("time_ms", "-"))


def facts(card: Card) -> dict[str, Any]:
    """Return an entry as a flat mapping: names, license, weights and published figures."""
    terms = {"license": card.license, "permissive": card.permissive, "served": card.live}
    return {"name": card.name, "family": card.family, **terms, **card.published}


if __name__ == "__main__":
    from tools.cli import main

    sys.exit(main(["list", *sys.argv[1:]]))
