"""Write sizes and hashes of published weights into the entries: `fcos-zoo pin`."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

import zoo
from fcos.text import TextConsole
from tools.download import matching
from zoo.download import probe
from zoo.registry import entry_file
from zoo.sources import FileSource


def pin_entries(
    names: Annotated[list[str], typer.Argument(help="Entries; may have shell wildcards.")],
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Also replace facts that the entry states differently."),
    ] = False,
) -> int:
    """Ask the hosts of weights for size, SHA-256 and commit; write them into the entries' files.

    The exit code is 1 if a host does not answer, or states something else than the entry.
    """
    console = TextConsole(soft_wrap=True)
    failures = 0
    for name in matching(names):
        for source in zoo.card(name).weights:
            if source.dead or not source.remote:
                console.print(f"{name}: {source.url}: not asked")
                continue
            try:
                actual = pin(entry_file(name), source, overwrite)
                facts = f"{actual.size} bytes, sha256 {actual.digest or 'not stated'}"
                console.print(f"{name}: {actual.url}: {facts}")
            except (zoo.WeightsError, ValueError) as error:
                failures += 1
                console.print(f"{name}: {error}", style="red")
    return 1 if failures else 0


def pin(path: Path, source: FileSource, overwrite: bool = False) -> FileSource:
    """Write the facts that a source's host states of its file into an entry's YAML.

    Only the line of the source changes: its size, its hash and, on the Hub, its commit.

    Raises:
        WeightsError: the host does not serve it.
        ValueError: it is not the file that the entry states, or the source is not on one line.
    """
    actual = probe(source)
    same_size = source.size in (None, actual.size) or actual.size is None
    same_hash = not actual.sha256 or actual.sha256.startswith(source.digest or "")
    if not (same_size and same_hash) and not overwrite:
        raise ValueError(
            f"{source.url} is now another file: {actual.size} bytes, sha256 {actual.sha256}, the "
            f"entry says {source.size}, {source.digest}; --overwrite replaces what the entry says"
        )
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    for number, line in enumerate(lines):
        match = re.fullmatch(r"(\s*- )(.+?)(\s+#.*)?(\s*)", line)
        if match and _url(match[2]) == source.url:
            lines[number] = match[1] + _flow(actual) + (match[3] or "") + match[4]
            path.write_text("".join(lines), encoding="utf-8")
            return actual
    raise ValueError(f"{path}: no line of its own states {source.url}")


def _url(item: str) -> Any:
    try:
        value = yaml.safe_load(item)
    except yaml.YAMLError:
        return None
    return value.get("url") if isinstance(value, dict) else value


def _flow(source: FileSource) -> str:
    """Return a source in one line of YAML, without defaults."""
    defaults = {field.name: field.default for field in dataclasses.fields(FileSource)}
    facts = {k: v for k, v in dataclasses.asdict(source).items() if v != defaults[k]}
    return yaml.safe_dump(facts, default_flow_style=True, sort_keys=False, width=10**6).strip()


if __name__ == "__main__":
    from tools.cli import main

    sys.exit(main(["pin", *sys.argv[1:]]))
