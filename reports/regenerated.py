"""Every published table again, row for row: published, measured, and their ratio."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas

from reports.lines import STATIC, Line, lines, source
from reports.tables import (
    OWN_WEIGHTS,
    THROTTLED,
    Notes,
    circumstances,
    markdown,
    noise_mark,
    reason,
    throttled,
    training_gb,
)
from zoo import published
from zoo.published import Cell, Column, Row, Table

Values = Mapping[str, Any]
GPUS = 8  # of the published training runs, whose memory is given in total


@dataclass(frozen=True)
class Measure:
    """How a published column is measured: the metric, and the figure in the column's unit."""

    metric: str
    figure: Callable[[Values], float | None]


def _ap(name: str) -> Measure:
    return Measure("ap", lambda v: None if v[name] is None else 100 * v[name])


MEASURES: dict[str, Measure] = {
    "ap": _ap("AP"),
    "ap_50": _ap("AP50"),
    "ap_75": _ap("AP75"),
    "ap_small": _ap("APs"),
    "ap_medium": _ap("APm"),
    "ap_large": _ap("APl"),
    "ar_1": _ap("AR1"),
    "ar_10": _ap("AR10"),
    "ar_100": _ap("AR100"),
    "ar_small": _ap("ARs"),
    "ar_medium": _ap("ARm"),
    "ar_large": _ap("ARl"),
    "time_ms": Measure("latency", lambda v: v["median"]),
    "time_s": Measure("latency", lambda v: v["median"] / 1e3),
    "fps": Measure("latency", lambda v: 1e3 / v["median"]),
    "training_memory_gb": Measure("training_memory", lambda v: GPUS * training_gb(v)),
    "training_memory_per_gpu_gb": Measure("training_memory", training_gb),
    "backbone_gflops": Measure("flops", lambda v: v["backbone_gflops"]),
    "gflops": Measure("flops", lambda v: v["gflops"]),
    "params_m": Measure("params", lambda v: v["parameters"] / 1e6),
}


@dataclass(frozen=True)
class Regenerated:
    """A published table with the measurements of one machine: all cells as text."""

    table: Table
    machine: str
    headings: list[str]
    cells: list[list[str]]
    notes: list[str]

    @property
    def hardware(self) -> str:
        """What differs in hardware."""
        theirs = self.table.measured_on
        note = f" ({theirs.note})" if theirs.note else ""
        return (
            f"Published speed: {theirs.gpu}, batch {theirs.batch}{note}; "
            f"measured speed: {self.machine}, batch 1."
        )

    def markdown(self) -> str:
        """The table with its title, hardware, reasons and the page's own footnotes."""
        date = f", {self.table.source.date}" if self.table.source.date else ""
        parts = [
            f"### {self.table.title}",
            f"Source: <{self.table.source.url}>{date}. {self.hardware}",
            "\n".join(markdown(self.headings, self.cells)),
            "\n".join(f"{n}. {text}" for n, text in enumerate(self.notes, 1)),
            *(f"> {footnote}" for footnote in self.table.footnotes),
        ]
        return "\n\n".join(filter(None, parts))

    def csv(self) -> str:
        """The same cells for spreadsheets, notes as their numbers."""
        frame = pandas.DataFrame(self.cells, columns=self.headings)
        return str(frame.to_csv(index=False))


def all_tables(
    rows: Iterable[Mapping[str, Any]], tables: Sequence[Table] | None = None
) -> list[Regenerated]:
    """Every published table once for each machine that measured."""
    by_machine: dict[str, dict[str, Line]] = {}
    for line in lines(rows):
        found = by_machine.setdefault(line.machine, {})
        mine = found.setdefault(line.entry, Line(line.machine, line.entry, {}))
        for row in line.results.values():
            if line.as_published or _static(row):
                mine.keep(row)
    return [
        regenerate(table, found, machine)
        for machine, found in by_machine.items()
        for table in tables or published.tables()
    ]


def _static(row: Mapping[str, Any]) -> bool:
    """Whether it stays the same in settings other than the published ones."""
    return row["cell"]["metric"] in STATIC and row["cell"]["precision"] == "fp32"


def page(rows: Sequence[Mapping[str, Any]], tables: Sequence[Table] | None = None) -> str:
    """All published tables in markdown, machine by machine."""
    parts = ["# The published tables, measured again"]
    machine = ""
    for regenerated in all_tables(rows, tables):
        if regenerated.machine != machine:
            machine = regenerated.machine
            mine = [row for row in rows if row["machine"] == machine]
            facts = "\n".join(f"- {text}" for text in circumstances(mine))
            parts += [f"## Measured on {machine}", facts]
        parts.append(regenerated.markdown())
    return "\n\n".join(parts) + "\n"


def regenerate(table: Table, found: Mapping[str, Line], machine: str) -> Regenerated:
    """One table.

    Args:
        table: as published.
        found: what was measured as it was published, by entry.
        machine: where.
    """
    notes = Notes()
    headings: list[str] = []
    for column in table.columns:
        if column.unit == "url":
            continue
        headings.append(column.heading)
        if measurable(table, column):
            headings += [f"{column.heading} measured", "ratio"]
    cells = [_row(table, row, found.get(row.entry or ""), notes) for row in table.rows]
    return Regenerated(table, machine, headings, cells, notes.texts)


def measurable(table: Table, column: Column) -> bool:
    """Whether the column is a figure that this project measures: one in some row at least."""
    figures = any(isinstance(row[column.key], float | int) for row in table.rows)
    return column.key in MEASURES and figures


def measured(table: Table, column: Column, row: Row, line: Line | None) -> tuple[float | None, str]:
    """The measurement that belongs beside a published cell, or None and why; a word on it too."""
    if row.entry is None:
        return None, "not an entry of the zoo"
    measure = MEASURES[column.key]
    result = line.results.get(measure.metric) if line else None
    if result is None:
        return None, "not measured in this run"
    if result["status"] != "measured":
        return None, reason(result)
    if source(result) == "file":
        return None, f"measured with {OWN_WEIGHTS} alone"
    values = result["values"]
    if measure.metric == "ap" and values["split"] != "val2017":
        return None, f"measured on {values['split']} alone"
    figure = measure.figure(values)
    if figure is not None and measure.metric == "ap" and column.unit != "%":
        figure /= 100
    word = ""
    if measure.metric == "latency":
        words = {
            "random weights": values["weights"] == "random",
            "noise over 10% or not known": noise_mark(values),
            THROTTLED: throttled(values),
        }
        word = "; ".join(text for text, true in words.items() if true)
    if measure.metric == "training_memory" and "measured_gb" not in values:
        word = "predicted, not measured"
    return figure, word


def _row(table: Table, row: Row, line: Line | None, notes: Notes) -> list[str]:
    texts = []
    for column in table.columns:
        if column.unit == "url":
            continue
        printed = row[column.key]
        texts.append(_printed(column, printed))
        if measurable(table, column):
            figure, word = measured(table, column, row, line)
            mark = f" {notes.mark(word)}" if word else ""
            texts.append((_digits(figure, printed) if figure is not None else "-") + mark)
            texts.append(_ratio(figure, printed))
    return texts


def _printed(column: Column, value: Cell) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return column.text(value)


def _digits(figure: float, printed: Cell) -> str:
    """As many decimals as the page prints, one at least."""
    decimals = len(str(printed).partition(".")[2]) if isinstance(printed, float) else 1
    return f"{figure:.{max(decimals, 1)}f}"


def _ratio(figure: float | None, printed: Cell) -> str:
    if figure is None or not isinstance(printed, float | int) or not printed:
        return "-"
    return f"{figure / printed:.3f}"
