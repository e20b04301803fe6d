"""One table of everything measured, an entry and precision a row, beside the published figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.markup import escape
from rich.table import Table

from reports.captions import captions
from reports.lines import Line, Row, lines, source, threads

WIDE = 190  # characters that the whole table takes
THROTTLED = "the GPU was throttled meanwhile: not a valid time"
OWN_WEIGHTS = "weights of a file of the user's"


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
    """A column: its metric, and how a cell is made of that metric's values.

    `published`: the key of the published figure to stand behind it; a `detail` is left out where
    there is little room.
    """

    heading: str
    metric: str
    text: Callable[[Mapping[str, Any]], str]
    published: str | None = None
    detail: bool = False


COLUMNS = (
    Column("params M", "params", lambda v: f"{v['parameters'] / 1e6:.2f}"),
    Column("GFLOPs", "flops", lambda v: f"{v['gflops']:.1f}"),
    Column("of backbone", "flops", lambda v: f"{v['backbone_gflops']:.1f}", "backbone_gflops"),
    Column("train GB", "training_memory", lambda v: f"{training_gb(v):.2f}"),
    Column("ms", "latency", lambda v: f"{v['median']:.1f}{noise_mark(v)}", "time_ms"),
    Column("p90", "latency", lambda v: f"{v['p90']:.1f}", detail=True),
    Column("preprocess", "latency", lambda v: stage(v, "preprocess"), detail=True),
    Column("network", "latency", lambda v: stage(v, "network"), detail=True),
    Column("decode", "latency", lambda v: stage(v, "decode"), detail=True),
    Column("images/s", "throughput", lambda v: f"{v['images_per_second']:.1f}{noise_mark(v)}"),
    Column("peak MB", "memory", lambda v: f"{v['peak_mb']:.0f}"),
    Column("AP", "ap", lambda v: percent(v["AP"]), "ap"),
)


def grid(rows: Sequence[Row], brief: bool = False) -> tuple[list[str], list[list[str]], list[str]]:
    """Headings, cells and notes of the table; a column that nothing was measured for is left out.

    Behind a measured column that the published tables have too stands theirs.
    """
    notes = Notes()
    table = lines(rows)
    columns = [
        column
        for column in COLUMNS
        if any(column.metric in line.results for line in table) and not (brief and column.detail)
    ]
    headings = ["entry", "settings"]
    for column in columns:
        headings += [column.heading, "published"] if column.published else [column.heading]
    cells = []
    for line in table:
        note = _weights_note(line)
        mark = notes.mark(note) if note else ""
        settings = (line.how, line.size, threads(line, table))
        texts = [f"{line.entry} {mark}".strip(), " ".join(filter(None, settings))]
        for column in columns:
            texts.append(_cell(column, line, notes))
            if column.published:
                texts.append(_published(column, line))
        cells.append(texts)
    return headings, cells, notes.texts


def _weights_note(line: Line) -> str:
    rows = line.results.values()
    if any(row["values"].get("weights") == "random" for row in rows):
        return "random weights: speed and memory only"
    return OWN_WEIGHTS if line.of_user else ""


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
    elif column.heading in ("ms", "images/s") and throttled(row["values"]):
        word = THROTTLED
    return f"{column.text(row['values'])} {notes.mark(word) if word else ''}".strip()


def _published(column: Column, line: Line) -> str:
    if column.published == "time_ms":
        ms = line.published_ms
        return "-" if ms is None else f"{ms:.0f}"
    return str(line.published.get(column.published or "", "-"))


def page(rows: Sequence[Row], title: str = "Measured") -> str:
    """The tables in markdown, one a machine, each with its circumstances and reasons."""
    parts = [f"# {title}", ""]
    for machine in dict.fromkeys(row["machine"] for row in rows):
        mine = [row for row in rows if row["machine"] == machine]
        headings, cells, notes = grid(mine)
        parts += [f"## {machine}", "", *(f"- {text}" for text in circumstances(mine)), ""]
        parts += markdown(headings, cells)
        parts += ["", *(f"{n}. {note}" for n, note in enumerate(notes, 1))]
        parts += ["", *(f"- {caption}" for caption in captions(mine)), ""]
    return "\n".join(parts)


def terminal(rows: Sequence[Row], width: int) -> list[Table | str]:
    """The same table for a terminal; a narrow one gets no details."""
    headings, cells, notes = grid(rows, brief=width < WIDE)
    table = Table(title="measured, and as published", title_justify="left")
    for i, heading in enumerate(headings):
        longest = max(map(len, heading.split()))
        table.add_column(
            heading, justify="left" if i < 2 else "right", no_wrap=i == 0, min_width=longest
        )
    for texts in cells:
        table.add_row(*map(escape, texts))
    told = [f"[{n}] {note}" for n, note in enumerate(notes, 1)]
    return [table, *(f"[dim]{escape(text)}[/]" for text in (*told, *captions(rows)))]


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
    """A tilde on a row that scatters by more than a tenth or never became stable, and on one of a
    single process, which does not tell how much another would differ."""
    noisy = values["noise"] is None or values["noise"] > 0.1 or values.get("processes", 1) < 2
    return " ~" if noisy or not values["stable"] else ""


def ap_note(row: Row) -> str:
    """What an AP was measured on, and whether the published one can be held against it."""
    values, size = row["values"], row["cell"]["size"]
    reduced = f" at {size[0]}/{size[1]}" if size else ""
    if values["split"] == "val2017" and not size:
        as_published = ", as published" if source(row) == "published" else ""
        return f"AP on the 5,000 images of val2017{as_published}"
    split = values["split"]
    where = split if " images of " in split else f"{values['images']} images of {split}"
    return f"AP on {where}{reduced}, not on val2017 as published"


def stage(values: Mapping[str, Any], name: str) -> str:
    """The median of a stage, which a peer need not have."""
    return f"{values['stages'][name]['median']:.2f}" if name in values["stages"] else "-"


def throttled(values: Mapping[str, Any]) -> bool:
    """Whether the GPU was slowed down meanwhile, or, where nobody looked then, at the end."""
    state = values.get("state", {})
    return bool((state.get("during") or state.get("after") or {}).get("gpu_throttled"))


def circumstances(rows: Sequence[Row]) -> list[str]:
    """Software, code and commands of one machine's rows, each kind once."""
    told: dict[str, None] = {}
    for row in rows:
        facts = row["environment"]
        software = [f"torch {facts['torch']}", f"torchvision {facts['torchvision']}"]
        if "cuda" in facts:
            software += [f"CUDA {facts['cuda']}", f"cuDNN {facts['cudnn']}"]
            software += [f"driver {facts['driver']}"]
        commit = f"commit {facts['commit'][:10]}" if facts["commit"] else "no commit"
        dirty = " with changes" if facts["dirty"] else ""
        told[f"{', '.join(software)}, Python {facts['python']}, {commit}{dirty}"] = None
    commands = dict.fromkeys(f"`{row['command']}`" for row in rows)
    return [*told, *commands]
