"""Everything about one model: `fcos-zoo info`."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

import zoo
from fcos.text import TextConsole
from tools.arguments import EXPORTED, TRAINED, Model
from tools.list import facts as listed_facts
from zoo.sources import FileSource


def info(
    name: Model,
    count: Annotated[bool, typer.Option("--parameters", help="Also count the parameters.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show an entry: its source, license, weights, published figures and every setting.

    Of a file, show what it states: its entry, classes and settings.
    """
    console = TextConsole()
    console.soft_wrap = not console.is_terminal  # lines are not wrapped in a file or pipe
    number = parameters_of(name) if count else None
    parameters = {} if number is None else {"parameters": f"{number / 1e6:.2f} M"}
    stated = None
    if Path(name).suffix in (*TRAINED, *EXPORTED) and "://" not in name:
        stated = facts_of_file(Path(name))
    if as_json:
        known = facts_of_entry(zoo.card(name)) if stated is None else {"name": name, **stated}
        print(json.dumps(known if number is None else {**known, "parameters": number}))
        return
    if stated is not None:
        console.print(name, style="bold")
        console.print(_yaml({**parameters, **stated}, console))
        return
    card = zoo.card(name)
    facts = [
        ("system", f"{card.family}, {card.repository}"),
        ("config there", card.source),
        ("license", card.license),
        *parameters.items(),
    ]
    console.print(card.name, style="bold")
    for what, fact in facts:
        console.print(_folded(f"  {what:<16}  ", fact, console))
    for source in card.weights:
        # A wrapped link could not be copied.
        what = "dead link" if source.dead else "weights"
        console.print(f"  {what:<16}  {source.url}", soft_wrap=True)
        for fact in _facts(source):
            console.print(f"    {fact}")
    for table, row in card.tables:
        cells = [f"{c.heading} {c.text(row[c.key])}" for c in table.columns if c.unit != "url"]
        console.print(
            f"\npublished: {table.title} ({table.source.date or 'no date'})", style="bold"
        )
        console.print(_folded("  ", " · ".join(cells), console))
        console.print(f"  {table.source.url}", soft_wrap=True)
    config = {key: value for key, value in card.config.items() if key not in ("classes", "weights")}
    console.print("\nconfiguration", style="bold")
    console.print(_yaml(config, console))


def facts_of_file(path: Path) -> dict[str, Any]:
    """Return the facts that a trained or exported file states beside its weights.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not one of these.
    """
    if path.suffix in EXPORTED:
        exported = zoo.load(path)
        return {"runtime": exported.runtime, **exported.description}
    from zoo.checkpoint import read_checkpoint

    checkpoint = read_checkpoint(path)
    facts = {
        "entry": checkpoint.entry or "not stated",
        "classes": checkpoint.classes,
        "configuration": checkpoint.config,
    }
    return {name: fact for name, fact in facts.items() if fact is not None}


def facts_of_entry(card: zoo.Card) -> dict[str, Any]:
    """Return what `list --json` prints of an entry, its sources and every setting."""
    weights = [
        {"url": each.url, "size": each.size, "sha256": each.digest, "dead": each.dead}
        for each in card.weights
    ]
    sources = {"repository": card.repository, "source": card.source, "weights": weights}
    return {**listed_facts(card), **sources, "configuration": card.config}


def parameters_of(name: str) -> int:
    """Count a model's parameters, which imports torch.

    Raises:
        ValueError: it is an exported file.
    """
    from zoo.config import build_detector

    if Path(name).suffix in EXPORTED:
        raise ValueError(f"{name}: the parameters of an exported file cannot be counted")
    trained = Path(name).suffix in TRAINED
    detector = zoo.get(name) if trained else build_detector(zoo.card(name).config, empty=True)
    return sum(each.numel() for each in detector.parameters())


def _folded(start: str, text: str, console: TextConsole) -> str:
    """A text behind `start`, below whose end its further lines begin."""
    if console.soft_wrap:
        return start + text
    lines = textwrap.wrap(
        text, console.width - len(start), break_long_words=False, break_on_hyphens=False
    )
    return start + f"\n{' ' * len(start)}".join(lines)


def _yaml(facts: Mapping[str, Any], console: TextConsole) -> str:
    longest = 28  # length of an item: PyYAML ends a line after the item that exceeds `width`
    width = 80 if console.soft_wrap else max(console.width - longest, longest)
    return yaml.safe_dump(dict(facts), sort_keys=False, default_flow_style=None, width=width)


def _facts(source: FileSource) -> list[str]:
    """Return size, hash and note of a source's file, as far as they are known."""
    size = f"{source.size:,} bytes" if source.size else ""
    digest = f"sha256 {source.digest}" if source.digest else ""
    return [fact for fact in (size, digest, source.note) if fact]


if __name__ == "__main__":
    from tools.cli import main

    sys.exit(main(["info", *sys.argv[1:]]))
