"""Curves of training runs: AP and losses by epoch, as plots and as text."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fcos.coco_eval import FIGURES
from fcos.text import counted
from fcos.train.metrics import read
from reports.plots import PLAIN, style_of

# The curves that run_analyze.py of the centre-ness-free code base plots, and their lines.
AP_CURVES = {"AP": "-", "AP50": "--", "AP75": ":"}
STYLE = {**PLAIN, "svg.hashsalt": "fcos-zoo", "font.size": 11, "grid.alpha": 0.3}
SUMMARY = " {} @[ IoU={:<9} | area={:>6} | maxDets={:>3} ] = {:0.3f}"
AREAS = {"s": "small", "m": "medium", "l": "large"}


@dataclass(frozen=True)
class Run:
    """The records of a training run, a row each, NaN if there is no figure.

    `evaluations`: `iteration`, `epoch` and COCO's twelve metrics in per cent; `losses`: `epoch`,
    the total `loss` and its parts.
    """

    name: str
    evaluations: pd.DataFrame
    losses: pd.DataFrame


def load(path: str | Path) -> Run:
    """Read a run from its folder, or from its `metrics.jsonl`.

    Raises:
        FileNotFoundError: the file has no records of a training run.
    """
    path = Path(path)
    file = path if path.is_file() else path / "metrics.jsonl"
    records = read(file)
    if not any("iteration" in record and "epoch" in record for record in records):
        raise FileNotFoundError(f"{file} has no records: is {path} a training run?")
    name = file.resolve().parent.name if file.name == "metrics.jsonl" else file.stem
    evaluated = [record for record in records if "AP" in record]
    evaluations = pd.DataFrame(evaluated, columns=["iteration", "epoch", *FIGURES]).astype(float)
    evaluations[list(FIGURES)] *= 100
    losses = pd.DataFrame([record for record in records if "loss" in record])
    return Run(name, evaluations, losses.filter(regex="^(epoch|loss|loss_.*)$"))


def load_all(paths: Sequence[Path]) -> list[Run]:
    """Read several runs; runs of the same name are named by their paths instead."""
    runs = [load(path) for path in paths]
    names = [run.name for run in runs]
    return [
        replace(run, name=str(path)) if names.count(run.name) > 1 else run
        for run, path in zip(runs, paths, strict=True)
    ]


def text(run: Run) -> str:
    """Return the AP of all evaluations, and COCO's summaries of the last and the best one."""
    evaluations = run.evaluations
    if evaluations.empty:
        return f"{run.name}: no evaluation yet"
    blocks = [f"{run.name}: {counted(len(evaluations), 'evaluation')}"]
    table = evaluations[["iteration", "epoch", *AP_CURVES]]
    forms: Any = {"iteration": "{:.0f}".format, "epoch": "{:.2f}".format}
    blocks.append(table.to_string(index=False, na_rep="-", float_format="%.1f", formatters=forms))
    last, best = evaluations.iloc[-1], evaluations.iloc[int(evaluations["AP"].fillna(0).argmax())]
    same = last.name == best.name
    blocks += [f"{'best and ' * same}last, {_when(last)}", summary(last / 100)]
    if not same:
        blocks += [f"best, {_when(best)}", summary(best / 100)]
    return "\n".join(blocks)


def summary(figures: pd.Series) -> str:
    """Return the twelve lines that COCOeval.summarize prints, -1 for a size without objects."""
    lines = []
    for key, value in figures[list(FIGURES)].fillna(-1).items():
        recall, rest = str(key).startswith("AR"), str(key)[2:]
        kind = "Average Recall     (AR)" if recall else "Average Precision  (AP)"
        iou = "0.50:0.95" if recall or not rest.isdecimal() else f"0.{rest}"
        most = rest if recall and rest.isdecimal() else "100"
        lines.append(SUMMARY.format(kind, iou, AREAS.get(rest, "all"), most, value))
    return "\n".join(lines)


def draw(runs: Sequence[Run]) -> Figure:
    """Plot AP above and losses below, by epoch; a single run with each part of its loss."""
    evaluated = any(len(run.evaluations) for run in runs)
    parts = ["loss"]
    if len(runs) == 1:
        parts = [str(name) for name in runs[0].losses if name != "epoch"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 5.6 if evaluated else 3.2), layout="constrained")
        panels = figure.subplots(2 if evaluated else 1, sharex=True, squeeze=False)[:, 0]
        if evaluated:
            _plot(panels[0], {run.name: run.evaluations for run in runs}, AP_CURVES, markersize=4)
            several = "AP, %\nAP50 dashed, AP75 dotted"
            panels[0].set_ylabel("AP, %" if len(runs) == 1 else several)
        lines = dict(zip(parts, itertools.cycle(("-", "--", ":", "-.")), strict=False))
        _plot(panels[-1], {run.name: run.losses for run in runs}, lines, marker="", linewidth=1.2)
        panels[-1].set_ylabel("loss")
        panels[-1].set_xlabel("epoch")
        for axes in panels:
            axes.set_ylim(bottom=0)
            axes.legend(frameon=False, fontsize=10, ncols=2)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a PNG or an SVG, depending on the suffix; the same bytes each time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dated = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    with mpl.rc_context(STYLE):
        figure.savefig(path, dpi=150, metadata=dated)


def _plot(
    axes: Axes, tables: Mapping[str, pd.DataFrame], lines: Mapping[str, str], **style: Any
) -> None:
    """Plot columns by epoch: a single run with a colour per curve, else a colour per run."""
    single = len(tables) == 1
    for number, (name, table) in enumerate(tables.items()):
        for order, (column, line) in enumerate(lines.items() if len(table) else ()):
            colour, marker = style_of(order if single else number)
            label = column if single else name if order == 0 else None
            look = {"color": colour, "marker": marker, **style}
            axes.plot(table["epoch"], table[column], line, label=label, **look)


def _when(record: pd.Series) -> str:
    return f"epoch {record['epoch']:.2f}, iteration {record['iteration']:,.0f}"
