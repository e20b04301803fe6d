"""The published tables, row for row: each figure beside the measured one and their ratio."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from benchmarks.store import Row
from reports.frame import best, frame, records
from reports.metrics import BY_NAME, PUBLISHED
from reports.tables import GAP, markdown, some
from zoo import published
from zoo.published import Cell, Column, Table

NOT_MEASURED = "not measured"
INTRO = """\
This page repeats every published table, row by row. A column that was measured here is followed by
the measured figures and by their ratios to the published ones; in a table of many columns these
stand below the published figure. Numbers in brackets refer to the notes below a table, and
quotations are from the published page. [measured.md](measured.md) states the software and the
commands of the measurements."""


@dataclass(frozen=True)
class Comparison:
    """A published table with the measurements of one machine; all cells are text.

    A published column with measurements is followed by a column of the measured figures and one of
    the ratios, measured by published. Speeds have a ratio only if they were measured on the GPU of
    the table. A curve has a row per epoch. Cells refer to `notes` by number; `remarks` are about
    the table.
    """

    table: Table
    machine: str
    cells: pd.DataFrame
    notes: list[str]
    remarks: list[str]

    @property
    def shown(self) -> pd.DataFrame:
        """The cells for readers: in wide tables, measured figures and ratios are below the
        published ones, and a single row is transposed."""
        if len(self.cells.columns) < 9:
            return self.cells
        if len(self.cells) == 1:
            upright = self.cells.T.rename_axis("figure").reset_index()
            return upright.set_axis(["figure", "value"], axis=1)
        columns: dict[str, pd.Series] = {}
        for heading, texts in self.cells.items():
            name, _, kind = str(heading).rpartition(": ")
            if kind in ("measured", "ratio"):
                columns[name] += (
                    "\n" if kind == "measured" else "\n\N{MULTIPLICATION SIGN}"
                ) + texts
            else:
                columns[str(heading)] = texts.copy()
        return pd.DataFrame(columns)

    @property
    def hardware(self) -> str:
        """The hardware of the published and the measured speeds, "" for a table without any."""
        metrics = [PUBLISHED[c.key].metric for c in self.table.columns if c.key in PUBLISHED]
        if "latency_ms" not in metrics:
            return ""
        theirs = self.table.measured_on
        note = f" ({theirs.note})" if theirs.note else ""
        return (
            f"Published speed: {theirs.gpu}, batch {theirs.batch}{note}; "
            f"measured speed: {self.machine}, batch 1"
            f"{'' if _same_gpu(self.table, self.machine) else ', so they have no ratio'}."
        )

    def markdown(self) -> str:
        """Return the table with its source, its hardware, notes, and the page's footnotes."""
        date = f", {self.table.source.date}" if self.table.source.date else ""
        parts = [
            f"### {self.table.title}",
            f"Source: <{self.table.source.url}>{date}. {self.hardware}".strip(),
            markdown(self.shown),
            "\n".join(f"{n}. {text}" for n, text in enumerate(self.notes, 1)),
            "\n".join(f"- {text}" for text in self.remarks),
            "\n>\n".join(f"> {footnote}" for footnote in self.table.footnotes),
        ]
        return "\n\n".join(filter(None, parts))

    def csv(self) -> str:
        """Return the same cells for a spreadsheet; notes are numbers in brackets."""
        return str(self.cells.to_csv(index=False))


def compare_all(rows: Sequence[Row], tables: Sequence[Table] | None = None) -> list[Comparison]:
    """Return every published table once for each machine with measurements."""
    measured = frame(rows)
    return [
        compare(table, figures, str(machine))
        for machine, figures in measured.groupby("machine", sort=False)
        for table in tables or published.tables()
    ]


def page(rows: Sequence[Row], tables: Sequence[Table] | None = None) -> str:
    """Return all published tables in Markdown, machine by machine."""
    parts, machine = ["# The published tables, measured again", INTRO], ""
    for comparison in compare_all(rows, tables):
        if comparison.machine != machine:
            machine = comparison.machine
            parts.append(f"## Measured on {machine}")
        parts.append(comparison.markdown())
    return "\n\n".join(parts) + "\n"


def compare(table: Table, figures: pd.DataFrame, machine: str) -> Comparison:
    """Compare a published table with one machine's figures in the published settings."""
    standing = best(figures[figures["as_published"]], ["entry"])
    found = {(row["entry"], row["metric"]): row for row in records(standing)}
    notes: list[str] = []
    reasons: dict[str, list[str]] = {}  # why columns were not measured
    headings = [column.heading for column in table.columns if column.unit != "url"]
    columns: list[tuple[str, list[str]]] = []
    for column in table.columns:
        if column.unit == "url":
            continue
        printed = [row[column.key] for row in table.rows]
        heading = column.heading
        if headings.count(heading) > 1:  # such as "Box AP (AP/APs)", which has two columns
            heading = f"{heading.split(' (')[0]}: {BY_NAME[PUBLISHED[column.key].metric].heading}"
        if isinstance(printed[0], list):
            columns = columns or [("epoch", list(map(str, range(1, len(printed[0]) + 1))))]
            columns.append((heading, [column.text(value) for value in printed[0]]))
            continue
        columns.append((heading, [column.text(value) for value in printed]))
        if column.key not in PUBLISHED:
            continue
        results = [_figure(column, row.entry, found) for row in table.rows]
        if all(figure is None for figure, _ in results):
            if why := dict.fromkeys(note for _, note in results if note):
                reasons.setdefault("; ".join(why), []).append(heading)
            continue
        columns.append((f"{heading}: measured", _measured(column, printed, results, notes)))
        if PUBLISHED[column.key].metric != "latency_ms" or _same_gpu(table, machine):
            ratios = [_ratio(f, p) for (f, _), p in zip(results, printed, strict=True)]
            columns.append((f"{heading}: ratio", ratios))
    remarks = [
        *table.notes,
        *(f"{some(names, 1)} not measured: {why}" for why, names in reasons.items()),
    ]
    names, texts = zip(*columns, strict=True)
    cells = pd.DataFrame(zip(*texts, strict=True), columns=names)
    return Comparison(table, machine, cells, notes, remarks)


def _figure(
    column: Column, entry: str | None, found: Mapping[tuple[str, str], Mapping[str, Any]]
) -> tuple[float | None, str]:
    """Return the measured figure for a published cell and a note on it, or None and the reason."""
    if entry is None:
        return None, "not a model of the zoo"
    kind = PUBLISHED[column.key]
    of_coco = BY_NAME[kind.metric].measurement == "ap"
    row = found.get((entry, kind.metric))
    if row is None and kind.metric == "train_gb":
        row = found.get((entry, "train_gb_predicted"))
    if row is None and of_coco:
        row = found.get((entry, "ap"))  # it says why there is none
    if row is None:
        return None, NOT_MEASURED
    if not row["measured"]:
        return None, row["note"]
    if row["weights"] == "file":
        return None, "measured only with weights from a file of the user's"
    if of_coco and (row["note"] or row["metric"] != kind.metric):
        return None, f"measured only {row['note']}" if row["note"] else NOT_MEASURED
    figure = kind.published(row["value"])
    return figure / 100 if of_coco and column.unit != "%" else figure, row["note"]


def _measured(
    column: Column,
    printed: Sequence[Cell],
    results: Sequence[tuple[float | None, str]],
    notes: list[str],
) -> list[str]:
    """Return the measured figures in the page's unit, each with the number of its note."""
    texts = []
    for value, (figure, note) in zip(printed, results, strict=True):
        digits = GAP if figure is None else _digits(figure, value)
        text = digits if figure is None else re.sub("{.*}", digits, column.format)
        if note and note != NOT_MEASURED:
            if note not in notes:
                notes.append(note)
            text += f" [{notes.index(note) + 1}]"
        texts.append(text)
    return texts


def _same_gpu(table: Table, machine: str) -> bool:
    """Whether the machine has the GPU of the table, however its name is spelt."""
    words = table.measured_on.gpu.removeprefix("NVIDIA ")
    return re.sub(r"\W", "", words).lower() in re.sub(r"\W", "", machine).lower()


def _digits(figure: float, printed: Cell) -> str:
    """Format with as many decimals as the page, but at least one, and two for figures below one."""
    decimals = len(str(printed).partition(".")[2]) if isinstance(printed, float) else 1
    return f"{figure:.{max(decimals, 1 if figure >= 1 else 2)}f}"


def _ratio(figure: float | None, printed: Cell) -> str:
    if figure is None or not isinstance(printed, float | int) or not printed:
        return GAP
    return f"{figure / printed:.3f}"


def restricted(entries: Set[str]) -> list[Table]:
    """Return the published tables that list some of these models, with only their rows."""
    tables = [
        replace(table, rows=tuple(row for row in table.rows if row.entry in entries))
        for table in published.tables()
    ]
    return [table for table in tables if table.rows]
