"""One table of everything measured, an entry and precision a row, beside the published figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

import zoo
from reports.captions import captions

Row = Mapping[str, Any]

# What tells one line of the table from another; static metrics belong to all lines of an entry.
SETTINGS = ("precision", "layout", "compiled", "size", "weights")
STATIC = ("params", "flops", "training_memory")


@dataclass
class Line:
    """What was measured of an entry under one combination of settings: result rows by metric.

    `sweeps` are the rows of throughput, a batch size each; the fastest stands in `results` too.
    """

    machine: str
    entry: str
    settings: Mapping[str, Any]
    results: dict[str, Row] = field(default_factory=dict)
    sweeps: list[Row] = field(default_factory=list)

    @property
    def published(self) -> Mapping[str, Any]:
        """The entry's published figures; none for a peer that the zoo does not know."""
        try:
            return zoo.card(self.entry).published
        except LookupError:
            return {}

    @property
    def published_ms(self) -> float | None:
        """The published time of an image in milliseconds, whatever unit its page gives it in."""
        figures = self.published
        if "time_ms" in figures:
            return float(figures["time_ms"])
        if "fps" in figures:
            return 1e3 / float(figures["fps"])
        return 1e3 * float(figures["time_s"]) if "time_s" in figures else None


class Notes:
    """Reasons below a table, each once, by number."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self, text: str) -> str:
        """The number of a note, as it stands in a cell."""
        if text not in self.texts:
            self.texts.append(text)
        return f"[{self.texts.index(text) + 1}]"


@dataclass(frozen=True)
class Column:
    """A column: its metric, and how a cell is made of that metric's values."""

    heading: str
    metric: str
    text: Callable[[Mapping[str, Any]], str]
    published: str | None = None


COLUMNS = (
    Column("params M", "params", lambda v: f"{v['parameters'] / 1e6:.2f}"),
    Column("GFLOPs", "flops", lambda v: f"{v['gflops']:.1f}"),
    Column("of backbone", "flops", lambda v: f"{v['backbone_gflops']:.1f}", "backbone_gflops"),
    Column("train GB", "training_memory", lambda v: f"{training_gb(v):.2f}"),
    Column("ms", "latency", lambda v: f"{v['median']:.1f}{noise_mark(v)}", "time_ms"),
    Column("p90", "latency", lambda v: f"{v['p90']:.1f}"),
    Column("network", "latency", lambda v: f"{v['stages']['network']['median']:.1f}"),
    Column("decode", "latency", lambda v: f"{v['stages']['decode']['median']:.2f}"),
    Column("images/s", "throughput", lambda v: f"{v['images_per_second']:.1f}"),
    Column("peak MB", "memory", lambda v: f"{v['peak_mb']:.0f}"),
    Column("AP", "ap", lambda v: percent(v["AP"]), "ap"),
)


def lines(rows: Iterable[Row]) -> list[Line]:
    """Result rows gathered into the table's lines, in their order."""
    found: dict[tuple[Any, ...], Line] = {}
    static: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        cell = row["cell"]
        owner = (row["machine"], cell["entry"])
        if cell["metric"] in STATIC:
            static.setdefault(owner, {})[cell["metric"]] = row
            continue
        settings = {name: _plain(cell[name]) for name in SETTINGS}
        place = (*owner, *settings.values())
        line = found.setdefault(place, Line(*owner, settings))
        if cell["metric"] == "throughput":
            line.sweeps.append(row)
            row = max(line.sweeps, key=lambda row: row["values"].get("images_per_second", 0.0))
        line.results[cell["metric"]] = row
    for owner, results in static.items():
        mine = [line for line in found.values() if (line.machine, line.entry) == owner]
        if not mine:
            mine = [Line(*owner, {})]
            found[owner] = mine[0]
        for line in mine:
            precision = line.settings.get("precision", "fp32")
            fitting = {
                metric: row
                for metric, row in results.items()
                if metric != "training_memory" or row["cell"]["precision"] == precision
            }
            line.results = {**fitting, **line.results}
    return list(found.values())


def grid(rows: Sequence[Row]) -> tuple[list[str], list[list[str]], list[str]]:
    """Headings, cells and notes of the table; a column that nothing was measured for is left out.

    Behind a measured column that the published tables have too stands theirs.
    """
    notes = Notes()
    table = lines(rows)
    columns = [c for c in COLUMNS if any(c.metric in line.results for line in table)]
    headings = ["entry", "precision"]
    for column in columns:
        headings += [column.heading, "published"] if column.published else [column.heading]
    cells = []
    for line in table:
        random = any(row["values"].get("weights") == "random" for row in line.results.values())
        mark = notes.mark("random weights: speed and memory only") if random else ""
        texts = [f"{line.entry} {mark}".strip(), str(line.settings.get("precision", "-"))]
        for column in columns:
            texts.append(_cell(column, line, notes))
            if column.published:
                texts.append(_published(column, line))
        cells.append(texts)
    return headings, cells, notes.texts


def _cell(column: Column, line: Line, notes: Notes) -> str:
    row = line.results.get(column.metric)
    if row is None:
        return "-"
    if row["status"] != "measured":
        return f"- {notes.mark(reason(row))}"
    word = ""
    if column.metric == "ap":
        word = ap_note(row)
    elif column.metric == "training_memory" and "measured_gb" not in row["values"]:
        word = "predicted, not measured"
    return f"{column.text(row['values'])} {notes.mark(word) if word else ''}".strip()


def _published(column: Column, line: Line) -> str:
    if column.published == "time_ms":
        ms = line.published_ms
        return "-" if ms is None else f"{ms:.0f}"
    return str(line.published.get(column.published or "", "-"))


def page(rows: Sequence[Row]) -> str:
    """The table in markdown, with what it was measured on above and the reasons below."""
    parts = ["# Measured", ""]
    for machine, facts in _machines(rows).items():
        parts += [f"**{machine}** — {facts}", ""]
    if rows:
        parts += [f"`{rows[-1]['command']}`", ""]
    headings, cells, notes = grid(rows)
    parts += markdown(headings, cells)
    parts += ["", *(f"{n}. {note}" for n, note in enumerate(notes, 1)), ""]
    parts += [*captions(rows), ""]
    return "\n".join(parts)


def terminal(rows: Sequence[Row]) -> list[Table | str]:
    """The same table for a terminal."""
    headings, cells, notes = grid(rows)
    table = Table(title="measured, and as published", title_justify="left")
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i < 2 else "right", no_wrap=i == 0)
    for texts in cells:
        table.add_row(*(text.replace("[", r"\[") for text in texts))
    told = [f"[dim]\\[{n}] {note}[/]" for n, note in enumerate(notes, 1)]
    return [table, *told, *(f"[dim]{caption}[/]" for caption in captions(rows))]


def markdown(headings: Sequence[str], cells: Iterable[Sequence[str]]) -> list[str]:
    """A markdown table's lines."""
    rule = ["---" if i < 1 else "---:" for i in range(len(headings))]
    return [f"| {' | '.join(texts)} |" for texts in (headings, rule, *cells)]


def reason(row: Row) -> str:
    """Why a row has no values, in a line."""
    return row["reason"] if row["status"] == "missing" else f"{row['status']}: {row['reason']}"


def percent(value: float | None) -> str:
    """An AP between 0 and 1 as the published tables print it."""
    return "-" if value is None else f"{100 * value:.1f}"


def training_gb(values: Mapping[str, Any]) -> float:
    """Measured where it was, else predicted."""
    return float(values.get("measured_gb", values.get("predicted_gb", 0.0)))


def noise_mark(values: Mapping[str, Any]) -> str:
    """A tilde on a row whose runs scatter by more than a tenth, or never became stable."""
    noisy = values["noise"] is None or values["noise"] > 0.1
    return " ~" if noisy or not values["stable"] else ""


def ap_note(row: Row) -> str:
    """What an AP was measured on, and whether the published one can be held against it."""
    values, size = row["values"], row["cell"]["size"]
    reduced = f" at {size[0]}/{size[1]}" if size else ""
    if values["split"] == "val2017" and not size:
        return "AP on the 5,000 images of val2017, as published"
    where = f"{values['images']} images of {values['split']}{reduced}"
    return f"AP on {where}, not on val2017 as published"


def _machines(rows: Sequence[Row]) -> dict[str, str]:
    told = {}
    for row in rows:
        facts = row["environment"]
        software = [f"torch {facts['torch']}", f"Python {facts['python']}"]
        if "cuda" in facts:
            software += [f"CUDA {facts['cuda']}", f"cuDNN {facts['cudnn']}",
                         f"driver {facts['driver']}"]  # fmt: skip
        commit = f"commit {facts['commit'][:10]}" if facts["commit"] else "no commit"
        dirty = " with changes" if facts["dirty"] else ""
        told[row["machine"]] = f"{', '.join(software)}, {commit}{dirty}"
    return told


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
