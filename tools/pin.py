"""Ask the hosts for the size and SHA-256 of weights, and write them into the entries."""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

import zoo
from zoo.download import probe
from zoo.registry import CONFIGS
from zoo.sources import FileSource


def main(arguments: Sequence[str] | None = None) -> int:
    """Pin every live location of the named entries; 0 if all answered as the entries say."""
    parser = argparse.ArgumentParser(prog="fcos-zoo pin", description=__doc__)
    parser.add_argument("names", nargs="+", help="entries; shell wildcards are allowed")
    parser.add_argument(
        "--overwrite", action="store_true", help="also where the entry states another file"
    )
    options = parser.parse_args(arguments)
    console = Console(soft_wrap=True, markup=False, highlight=False)
    failures = 0
    names = [name for pattern in options.names for name in zoo.names(pattern) or [pattern]]
    for name in dict.fromkeys(names):
        for place in zoo.card(name).weights:
            if place.dead or not place.remote:
                continue
            try:
                found = pin(CONFIGS / "entry" / f"{name}.yaml", place, options.overwrite)
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
    sys.exit(main())
