"""Sizes and hashes of published weights, from their hosts into the entries: `fcos-zoo pin`."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console

import zoo
from zoo.download import probe
from zoo.registry import CONFIGS
from zoo.sources import FileSource


def pin_entries(
    names: Annotated[list[str], typer.Argument(help="Entries; shell wildcards.")],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Also replace what an entry states differently.")
    ] = False,
) -> int:
    """Ask the hosts of weights for size and SHA-256, and write them into the entries' files.

    The exit code is 1 if a host does not answer, or states something else than the entry.
    """
    console = Console(soft_wrap=True, markup=False, highlight=False)
    failures = 0
    entries = [name for pattern in names for name in zoo.names(pattern) or [pattern]]
    for name in dict.fromkeys(entries):
        for place in zoo.card(name).weights:
            if place.dead or not place.remote:
                continue
            try:
                found = pin(CONFIGS / "entry" / f"{name}.yaml", place, overwrite)
                known = f"{found.size} bytes, sha256 {found.digest or 'not stated'}"
                console.print(f"{name}: {place.url}: {known}")
            except (zoo.WeightsError, ValueError) as error:
                failures += 1
                console.print(f"{name}: {error}", style="red")
    return 1 if failures else 0


def pin(path: Path, place: FileSource, overwrite: bool = False) -> FileSource:
    """Write what the host of a location states of its file into an entry's YAML.

    Nothing but the location's own line changes.

    Raises:
        WeightsError: the host does not serve it.
        ValueError: it is another file than the entry says, or the line is not found.
    """
    found = probe(place)
    stated = (place.size, place.digest)
    fits = found.size is None or place.matches(found.size, found.digest or place.digest or "")
    if not (fits or overwrite):
        raise ValueError(
            f"{place.url} is now another file: {found.size} bytes, sha256 {found.sha256}, the "
            f"entry says {stated[0]}, {stated[1]}; --overwrite believes the host"
        )
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    for number, line in enumerate(lines):
        match = re.fullmatch(r"(\s*- )(.+?)(\s+#.*)?(\s*)", line)
        if match and _url(match[2]) == place.url:
            lines[number] = match[1] + _flow(found) + (match[3] or "") + match[4]
            path.write_text("".join(lines), encoding="utf-8")
            return found
    raise ValueError(f"{path}: {place.url} does not stand in a line of its own")


def _url(item: str) -> Any:
    try:
        value = yaml.safe_load(item)
    except yaml.YAMLError:
        return None
    return value.get("url") if isinstance(value, dict) else value


def _flow(place: FileSource) -> str:
    """A location in a line of YAML, what is as usual left out."""
    usual = {field.name: field.default for field in dataclasses.fields(FileSource)}
    facts = {k: v for k, v in dataclasses.asdict(place).items() if v != usual[k]}
    return yaml.safe_dump(facts, default_flow_style=True, sort_keys=False, width=10**6).strip()


if __name__ == "__main__":
    from tools.cli import main

    sys.exit(main(["pin", *sys.argv[1:]]))
