"""The figures that the FCOS systems published, read from `reports/published`.

Each YAML file is one table of one version of a page, cell by cell: numbers as numbers, `null` for a
dash, and text as printed. If a page changed over time, each version is a separate table with its
commit and date. Nothing here is measured by this project; only `notes` are its own words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from zoo.sources import load_yaml

DIRECTORY = Path(__file__).parent.parent / "reports" / "published"

Cell = float | str | list[float] | None  # a list is a curve with one value per epoch


@dataclass(frozen=True)
class Source:
    """Where a table was published; `commit` and `date` are None if the page has none."""

    url: str
    path: str
    commit: str | None
    date: str | None


@dataclass(frozen=True)
class Hardware:
    """The hardware of measured speeds; "not stated" if the page does not name it."""

    gpu: str
    batch: int | str
    note: str = ""


@dataclass(frozen=True)
class Column:
    """A printed heading and its key; adjacent columns of one heading share a printed cell."""

    heading: str
    key: str
    unit: str
    format: str = "{}"

    def text(self, value: Cell) -> str:
        """Return the cell as the page prints it: `"71ms"` for 71, `"-"` for None."""
        return "-" if value is None else self.format.format(value)


@dataclass(frozen=True)
class Row:
    """A printed row.

    Attributes:
        entry: the name of its entry, None for a row that is not an FCOS detector of the zoo.
        printed: the name that the page prints.
        cells: the cells, by the keys of the columns.
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
    """A published table; `id` is the stem of its file, rows and columns are in the page's order.

    `footnotes` are those of the page. `notes` are ours, on what to know before comparing its
    figures.
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
    """Return all published tables, sorted by id."""
    return [read(path) for path in sorted(DIRECTORY.glob("*.yaml"))]


def rows(entry: str) -> list[tuple[Table, Row]]:
    """Return all published rows of a zoo entry with their tables; empty if there are none."""
    return [(table, row) for table in tables() for row in table.rows if row.entry == entry]


def figures(entry: str) -> dict[str, Cell]:
    """Return an entry's published figures by key (`ap`, `time_ms`, ...), each from its newest page.
    AP and AR are in per cent, whatever the unit of the page."""
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
    """Convert a fraction, or a curve of them, to per cent; return anything else unchanged."""
    if unit != "0..1":
        return cell
    if isinstance(cell, list):
        return [round(100 * value, 2) for value in cell]
    return round(100 * cell, 2) if isinstance(cell, float | int) else cell
