"""The figures that the FCOS systems published, read from `reports/published`.

One YAML file is one table of one version of a page, cell by cell: numbers as numbers, `null` where
the page has a dash, its own words where it has words. Where a page changed over time each version
is a table of its own, with its own commit and date. Nothing here is measured by this project; only
`notes` are its own words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from zoo.sources import load_yaml

DIRECTORY = Path(__file__).parent.parent / "reports" / "published"

Cell = float | str | list[float] | None  # a list is a curve, one value an epoch


@dataclass(frozen=True)
class Source:
    """Where a table was published; `commit` and `date` are None where the page has none."""

    url: str
    path: str
    commit: str | None
    date: str | None


@dataclass(frozen=True)
class Hardware:
    """What the speeds were taken on, "not stated" where the page is silent."""

    gpu: str
    batch: int | str
    note: str = ""


@dataclass(frozen=True)
class Column:
    """A printed heading and its machine key; neighbours under one heading share a printed cell."""

    heading: str
    key: str
    unit: str
    format: str = "{}"

    def text(self, value: Cell) -> str:
        """The cell as the page prints it: `"71ms"` for 71, `"-"` for None."""
        return "-" if value is None else self.format.format(value)


@dataclass(frozen=True)
class Row:
    """A printed row.

    Attributes:
        entry: its zoo name, None for a row that is not an FCOS detector of the zoo.
        printed: the name that the page prints.
        cells: by the keys of the columns.
        group: the number of separators above the row.
        links: the hyperlinks of cells, by key.
    """

    entry: str | None
    printed: str
    cells: Mapping[str, Cell]
    group: int
    links: Mapping[str, str]

    def __getitem__(self, key: str) -> Cell:
        return self.cells[key]


@dataclass(frozen=True)
class Table:
    """One published table; `id` is the stem of its file, rows and columns in the page's order.

    `footnotes` are the page's, `notes` ours: what to know before comparing with its figures.
    """

    id: str
    title: str
    system: str
    source: Source
    measured_on: Hardware
    columns: tuple[Column, ...]
    footnotes: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


def tables() -> list[Table]:
    """Every published table, by id."""
    return [read(path) for path in sorted(DIRECTORY.glob("*.yaml"))]


def rows(entry: str) -> list[tuple[Table, Row]]:
    """Every published row of a zoo entry with its table; empty where nothing was published."""
    return [(table, row) for table in tables() for row in table.rows if row.entry == entry]


def figures(entry: str) -> dict[str, Cell]:
    """An entry's published figures by key (`ap`, `time_ms`, ...), each from its newest page; AP and
    AR in per cent, whatever the page prints them in."""
    found: dict[str, Cell] = {}
    newest_first = sorted(rows(entry), key=lambda pair: pair[0].source.date or "", reverse=True)
    for table, row in newest_first:
        for column in table.columns:
            if column.key != "printed" and row[column.key] is not None:
                found.setdefault(column.key, _per_cent(row[column.key], column.unit))
    return found


@cache
def read(path: Path) -> Table:
    """Read one table; ValueError names a file that lacks a key, or has an unknown one."""
    content: dict[str, Any] = load_yaml(path)
    try:
        parts: dict[str, Any] = {
            "source": Source(**content["source"]),
            "measured_on": Hardware(**content["measured_on"]),
            "columns": tuple(Column(**column) for column in content["columns"]),
            "footnotes": tuple(content["footnotes"]),
            "rows": tuple(_row(**row) for row in content["rows"]),
            "notes": tuple(content.get("notes", ())),
        }
        return Table(id=path.stem, **{**content, **parts})
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: {error!r}") from error


def _row(
    entry: str | None,
    printed: str,
    group: int = 0,
    links: Mapping[str, str] | None = None,
    **cells: Cell,
) -> Row:
    return Row(entry, printed, {"printed": printed, **cells}, group, links or {})


def _per_cent(cell: Cell, unit: str) -> Cell:
    """A fraction, or a curve of them, in per cent; anything else as it is."""
    if unit != "0..1":
        return cell
    if isinstance(cell, list):
        return [round(100 * value, 2) for value in cell]
    return round(100 * cell, 2) if isinstance(cell, float | int) else cell
