"""The measured figures as tables: compact for a terminal, complete in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.cases import TIMED
from benchmarks.store import Row
from fcos.text import Name, counted, plain_table, printable
from reports.frame import NOISY, THROTTLED, best, frame, provenance, wide
from reports.metrics import BUDGETS, BY_NAME, MAIN, METRICS, Metric

GAP = "-"
MARK = "~ marks noise over 10% or not known"
ALWAYS = ("ap", "latency_ms", "peak_mb")  # shown even if names must be wrapped for them
# The columns without numbers.
TEXTS = (
    *("model", "backbone", "settings", "runtime", "weights", "license of the weights"),
    *("tied", "AP tied with", "meaning"),
)
# The columns of the table with a row per model, and the ones that only the page shows.
DETAILS = tuple(metric.name for metric in METRICS if not metric.compared)
SHOWN = (
    *("latency_ms", "peak_mb", "train_gb", "train_gb_predicted"),
    *("images_per_second", "gflops", "params_m"),
)
UNCERTAIN = ("latency_ms", "images_per_second")  # metrics that get the mark
# The tables of the page: their measurements, and a setting whose values are columns.
SECTIONS = {
    "Latency": (["latency"], None),
    "Throughput": (["throughput"], "batch"),
    "AP": (["ap"], None),
    "AP: interval, errors, calibration": (["analysis"], None),
    "Robustness": (["robustness"], None),
    "Energy": (["energy"], None),
    "Memory of detection": (["memory"], None),
    "Memory of training": (["training_memory"], "precision"),
    "Parameters and GFLOPs": (["params", "flops"], None),
}


@dataclass(frozen=True)
class Section:
    """A table of some measurements, with notes on its columns and figures.

    For few models with many figures, it has a row per figure with its meaning.
    """

    title: str
    cells: pd.DataFrame
    notes: list[str]


def terminal(rows: Sequence[Row], width: int, details: str = "") -> list[Table | Text]:
    """Return the most important figures in at most `width` characters, and notes.

    Args:
        details: the file with all figures, which is named if some are left out.
    """
    table = frame(rows)
    cells, noise = wide(table), wide(table, "noise")
    main = [m for m in METRICS if m.name in cells and not m.section]
    shown = {m.heading: m for m in main if cells[m.name].notna().any()}
    if shown:  # cases without figures are named below the table
        measured = cells[[m.name for m in shown.values()]].notna().any(axis=1)
        cells, noise = cells[measured], noise[measured]
    columns = _what_differs(cells)
    for heading, metric in shown.items():
        pairs = zip(cells[metric.name], noise[metric.name], strict=True)
        wider = {**columns, heading: [_text(metric, *pair) for pair in pairs]}
        needed = Console(width=10_000).measure(rich_table(wider)).maximum
        if needed > width and metric.name not in ALWAYS:
            break
        columns = wider
    seen = {heading: m for heading, m in shown.items() if heading in columns}
    kept = cells[[m.name for m in seen.values()]].notna().any(axis=1) | (not seen)
    columns = {h: [t for t, k in zip(c, kept, strict=True) if k] for h, c in columns.items()}
    meanings = [f"{heading}: {m.description}" for heading, m in seen.items()]
    notes = [*meanings, *_conditions(table), *_input_sizes(table, columns)]
    if any("~" in text for column in columns.values() for text in column):
        notes.append(MARK)
    notes = [*(f"{note}." for note in notes), *_warnings(table)]
    notes += [f"Not measured: {gap}." for gap in gaps(table, most=3)]
    if hidden := [heading for heading in shown if heading not in seen]:
        only = f", and {counted(n, 'row')} of these alone" if (n := sum(~kept)) else ""
        where = f"; see {details}" if details else ""
        notes.append(f"Left out for the width: {', '.join(hidden)}{only}{where}.")
    return [rich_table(columns), *(Text(note, "dim") for note in notes)]


def compact(models: pd.DataFrame, every: bool = False) -> pd.DataFrame:
    """Return a table of texts with a row per model, the most accurate first.

    Columns that are more than half empty are left out, unless `every` is True.
    """
    least = 1 if every else len(models) / 2
    models = models.sort_values("accuracy", ascending=False, kind="stable")
    columns = _what_differs(models)
    for name in ("ap", "ap_published", *SHOWN, *(DETAILS if every else ())):
        if count(models, name) < least:
            continue
        metric = BY_NAME[name.removesuffix("_published")]
        heading = metric.heading + (" published" if name.endswith("_published") else "")
        columns[heading] = [GAP if np.isnan(v) else metric.text(v) for v in models[name]]
        if name == "latency_ms":
            noise = models["latency_ms_noise"]
            columns["noise"] = [f"{100 * n:.0f}%" if n > 0 else GAP for n in noise]
    for cost, (title, _) in BUDGETS.items():
        if cost in models and models[f"{cost}_choice"].any():
            columns[f"for {title}"] = list(models[f"{cost}_choice"])
    return pd.DataFrame(columns)


def count(models: pd.DataFrame, name: str) -> int:
    """Return the number of models that have a figure."""
    return int(models[name].notna().sum()) if name in models else 0


def _what_differs(cells: pd.DataFrame) -> dict[str, list[str]]:
    """Return the columns that identify a row: its model, and other facts if they differ."""
    columns = {"model": list(cells["entry"])}
    for name in ("machine", "settings", "runtime"):
        texts = cells[name].fillna(GAP)
        shown = _with_runtimes(cells) if name == "runtime" else texts.nunique() > 1
        if shown:
            columns[name] = list(texts)
    return columns


def _with_runtimes(cells: pd.DataFrame) -> bool:
    """Whether a table has a column of runtimes, which it has if any is not PyTorch."""
    return not cells["runtime"].dropna().str.startswith("PyTorch").all()


def page(rows: Sequence[Row], title: str = "All measurements") -> str:
    """Return all figures in Markdown: for each machine a table per measurement, missing figures,
    and the software and commands of the measurements."""
    parts = [f"# {title}"]
    for machine, table in frame(rows).groupby("machine", sort=False):
        parts.append(f"## {machine}")
        for section in sections(table):
            parts += [f"### {section.title}", "\n".join(f"- {note}" for note in section.notes)]
            parts.append(markdown(section.cells))
        if missing := gaps(table):
            parts += ["### Not measured", "\n".join(f"- {gap}" for gap in missing)]
        mine = [row for row in rows if row["machine"] == machine]
        parts += ["### How it was measured", "\n".join(f"- {text}" for text in provenance(mine))]
    return "\n\n".join(parts) + "\n"


def sections(table: pd.DataFrame) -> list[Section]:
    """Return all figures of one machine, with a table per measurement."""
    found = []
    for title, (measurements, spread) in SECTIONS.items():
        measured = table[table["measurement"].isin(measurements) & table["measured"]]
        if len(measured):
            found.append(_section(title, measured, spread))
    return found


def _section(title: str, measured: pd.DataFrame, spread: str | None) -> Section:
    metrics = [metric for metric in METRICS if (measured["metric"] == metric.name).any()]
    in_settings = metrics[0].scope == "settings"
    by = ["entry", "settings", "weights"] if in_settings else ["entry"]
    chosen = best(measured, [*by, *([spread] if spread else [])])
    if in_settings and _with_runtimes(chosen):
        by.insert(2, "runtime")  # for equal settings the newest is chosen, whatever its version
    columns: dict[str, dict[tuple[str, ...], str]] = {}
    for metric in metrics:
        own = chosen[chosen["metric"] == metric.name]
        if spread:  # fp32 before the other precisions, small batches before large ones
            own = own.sort_values(spread, key=lambda values: values.replace("fp32", ""))
        for _, row in own.iterrows():
            key = tuple(row[by])
            heading = metric.heading
            if spread:
                heading += f", {row[spread]}" if spread == "precision" else f", batch {row[spread]}"
            columns.setdefault(heading, {})[key] = _text(metric, row["value"], row["noise"])
            if metric.name == "latency_ms":
                noise = GAP if pd.isna(row["noise"]) else f"{100 * row['noise']:.0f}%"
                columns.setdefault("noise", {})[key] = noise
    keys = sorted({key for cells in columns.values() for key in cells}, key=_order)
    rows = [[*key, *(cells.get(key, GAP) for cells in columns.values())] for key in keys]
    texts = pd.DataFrame(rows, columns=["model", *by[1:], *columns])
    notes = [*_conditions(chosen), *_input_sizes(chosen, columns)]
    if any("~" in text for text in texts.to_numpy().flat):
        notes.append(MARK)
    notes = [f"{note[0].upper()}{note[1:]}." for note in notes] + _warnings(chosen, random=False)
    meanings = {metric.heading: metric.description for metric in metrics}
    if len(rows) < 3 and len(columns) > 9:
        figures = {" ".join(key): row[len(by) :] for key, row in zip(keys, rows, strict=True)}
        upright = {
            "figure": list(columns),
            **figures,
            "meaning": [meanings.get(c, "") for c in columns],
        }
        return Section(title, pd.DataFrame(upright), notes)
    return Section(title, texts, [f"{c}: {text}." for c, text in meanings.items()] + notes)


def _order(key: tuple[str, ...]) -> tuple[object, ...]:
    """Return a sort key: by model, the settings of the published tables first."""
    return key[0].lower(), key[1:2] != ("fp32",), key


def _text(metric: Metric, value: float, noise: float) -> str:
    uncertain = metric.name in UNCERTAIN and not noise <= NOISY
    return GAP if pd.isna(value) else metric.text(value) + " ~" * uncertain


def rich_table(columns: Mapping[str, Iterable[str]], styles: Iterable[str] = ()) -> Table:
    """Make a table for the terminal, which wraps names if it is narrow; `styles` are by row."""
    table = plain_table()
    table.row_styles = list(styles)
    kinds: list[type[Text]] = []
    for heading in columns:
        words = heading in ("model", "settings", "runtime", "case", "figure")
        kinds.append(Name if heading == "model" else Text)
        table.add_column(heading, justify="left" if words else "right", no_wrap=not words)
    for texts in zip(*columns.values(), strict=True):
        table.add_row(*(kind(printable(text)) for kind, text in zip(kinds, texts, strict=True)))
    return table


def _conditions(table: pd.DataFrame) -> list[str]:
    """Return settings, device, runtime, threads and images of these figures, each kind once."""
    measured = table[table["measured"]]
    timed = measured[measured["measurement"].isin(TIMED)]
    words = []
    if len(timed):
        words += [*timed["settings"].unique()] if timed["settings"].nunique() == 1 else []
        words += sorted(set(timed["device"]))
        words += [] if _with_runtimes(timed) else [" or ".join(sorted(timed["runtime"].unique()))]
        threads = sorted(timed["threads"].dropna().unique())
        words += [counted(int(count), "thread") for count in threads]
    images = measured[(measured["images"] > 0) & (measured["split"] != "")]
    for split, counts in images.groupby("split", sort=False)["images"].unique().items():
        *few, most = sorted(counts)
        several = "".join(f"{count:,} or " for count in few)
        words.append(f"{several}{counted(most, 'image')} of {split}")
    return [f"measured with {', '.join(words)}"] if words else []


def _input_sizes(table: pd.DataFrame, headings: Iterable[str]) -> list[str]:
    """Return the input sizes of GFLOPs and predicted memory, which are not those of the images."""
    main = table["measured"] & (table["input"] != "") & table["metric"].isin(MAIN.values())
    sizes = table[main].groupby("metric", sort=False)["input"].unique()
    known = {BY_NAME[name].heading: ", ".join(texts) for name, texts in sizes.items()}
    shown = [name for name in known if any(heading.startswith(name) for heading in headings)]
    return [f"{name} at the published size: {known[name]}" for name in shown]


def _warnings(table: pd.DataFrame, random: bool = True) -> list[str]:
    """Return what makes some figures incomparable with others, with the names of the models."""
    measured = table[table["measured"]]
    of_settings = measured["scope"] == "settings"
    kinds = {
        "Random weights, for speed and memory only": (measured["weights"] == "random") & random,
        "Weights from a file of the user's": measured["weights"] == "file",
        "Weights that the file was exported with": measured["weights"] == "exported",
        THROTTLED[0].upper() + THROTTLED[1:]: measured["note"].str.contains(THROTTLED, regex=False),
    }
    for note in measured.loc[measured["metric"] == "ap", "note"].unique():
        kinds[f"AP {note}"] = (measured["note"] == note) & bool(note)
    return [
        f"{text}: {some(measured.loc[chosen & of_settings, 'entry'])}."
        for text, chosen in kinds.items()
        if (chosen & of_settings).any()
    ]


def gaps(table: pd.DataFrame, most: int = 10) -> list[str]:
    """Return what was not measured and why, with up to `most` names of models."""
    failed = table[~table["measured"]]
    return [
        f"{BY_NAME[metric].heading} of {some(entries, most)}: {reason}"
        for (metric, reason), entries in failed.groupby(["metric", "note"], sort=False)["entry"]
    ]


def some(entries: Iterable[str], most: int = 3) -> str:
    """Return the first names, and how many more there are."""
    names = list(dict.fromkeys(entries))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def markdown(cells: pd.DataFrame) -> str:
    """Return a Markdown table of texts, with numbers aligned to the right."""
    rule = ["---" if heading in TEXTS else "---:" for heading in cells.columns]
    rule[0] = "---"
    rows = [list(cells.columns), rule, *cells.to_numpy().tolist()]
    rows = [[text.replace("|", "\\|").replace("\n", "<br>") for text in texts] for texts in rows]
    return "\n".join(f"| {' | '.join(texts)} |" for texts in rows)
