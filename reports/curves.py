"""Curves of training runs: AP and losses by epoch, as plots and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fcos.coco_eval import FIGURES
from fcos.text import counted
from fcos.train.metrics import read
from reports.plots import style_of

Record = Mapping[str, Any]

# The curves that run_analyze.py of the centre-ness-free code base plots, and their lines.
AP_CURVES = {"AP": "-", "AP50": "--", "AP75": ":"}
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fcos-zoo",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
}
SUMMARY = " {} @[ IoU={:<9} | area={:>6} | maxDets={:>3} ] = {:0.3f}"
AREAS = {"s": "small", "m": "medium", "l": "large"}


@dataclass(frozen=True)
class Run:
    """The evaluations and the losses that a training run recorded."""

    name: str
    evaluations: tuple[Record, ...]
    losses: tuple[Record, ...]

    @property
    def best(self) -> Record:
        """The evaluation with the highest AP."""
        return max(self.evaluations, key=lambda record: record["AP"] or 0.0)


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
    return Run(
        name,
        tuple(record for record in records if "AP" in record),
        tuple(record for record in records if "loss" in record),
    )


def load_all(paths: Sequence[Path]) -> list[Run]:
    """Read several runs; runs of the same name are named by their paths instead."""
    runs = [load(path) for path in paths]
    names = [run.name for run in runs]
    return [
        replace(run, name=str(path)) if names.count(run.name) > 1 else run
        for run, path in zip(runs, paths, strict=True)
    ]


def text(run: Run) -> str:
    """AP of every evaluation in per cent, and COCO's summary of the last and of the best one."""
    if not run.evaluations:
        return f"{run.name}: no evaluation yet"
    blocks = [f"{run.name}: {counted(len(run.evaluations), 'evaluation')}"]
    for key in AP_CURVES:
        values = np.array([_percent(record[key]) for record in run.evaluations])
        blocks += [f"{key}, %", np.array2string(np.around(values, 2), max_line_width=80)]
    last, best = run.evaluations[-1], run.best
    blocks += [f"{'best and ' * (last is best)}last, {_when(last)}", summary(last)]
    if last is not best:
        blocks += [f"best, {_when(best)}", summary(best)]
    return "\n".join(blocks)


def summary(figures: Record) -> str:
    """The twelve lines that COCOeval.summarize prints, -1 for a size without objects."""
    lines = []
    for key in FIGURES:
        recall = key.startswith("AR")
        kind, rest = "Average Recall     (AR)" if recall else "Average Precision  (AP)", key[2:]
        iou = "0.50:0.95" if recall or not rest.isdecimal() else f"0.{rest}"
        most = rest if recall and rest.isdecimal() else "100"
        value = figures[key]
        area = AREAS.get(rest, "all")
        lines.append(SUMMARY.format(kind, iou, area, most, -1.0 if value is None else value))
    return "\n".join(lines)


def draw(runs: Sequence[Run]) -> Figure:
    """Plot AP above and losses below, by epoch; a single run with each part of its loss."""
    with mpl.rc_context(STYLE):
        evaluated = any(run.evaluations for run in runs)
        figure = Figure(figsize=(7.2, 6.4 if evaluated else 3.4), layout="constrained")
        panels = figure.subplots(2 if evaluated else 1, sharex=True, squeeze=False)[:, 0]
        if evaluated:
            _ap(panels[0], runs)
        _losses(panels[-1], runs)
        panels[-1].set_xlabel("epoch")
        for axes in panels:
            axes.set_ylim(bottom=0)
            axes.legend(frameon=False, fontsize=8, ncols=2)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a PNG or an SVG, depending on the suffix; the same bytes each time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dated = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    with mpl.rc_context(STYLE):
        figure.savefig(path, dpi=150, metadata=dated)


def _ap(axes: Axes, runs: Sequence[Run]) -> None:
    """A colour per curve for a single run, else a colour and a marker per run."""
    single = len(runs) == 1
    for number, run in enumerate(runs):
        for order, (key, line) in enumerate(AP_CURVES.items()):
            if not run.evaluations:
                continue
            colour, marker = style_of(order if single else number)
            axes.plot(
                [record["epoch"] for record in run.evaluations],
                [_percent(record[key]) for record in run.evaluations],
                line,
                color=colour,
                marker=marker,
                markersize=4,
                label=key if single else run.name if key == "AP" else None,
            )
    axes.set_ylabel("AP, %" if single else "AP, %; AP50 dashed, AP75 dotted")


def _losses(axes: Axes, runs: Sequence[Run]) -> None:
    single = len(runs) == 1
    for number, run in enumerate(runs):
        parts = dict.fromkeys(k for record in run.losses for k in record if k.startswith("loss_"))
        for order, key in enumerate(["loss", *parts] if single else ["loss"]):
            if not run.losses:
                continue
            axes.plot(
                [record["epoch"] for record in run.losses],
                [_number(record.get(key)) for record in run.losses],
                ("-", "--", ":", "-.")[order % 4],
                color=style_of(order if single else number)[0],
                linewidth=1.2,
                label=key if single else run.name,
            )
    axes.set_ylabel("loss")


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _percent(value: float | None) -> float:
    return 100 * _number(value)


def _when(record: Record) -> str:
    return f"epoch {record['epoch']:.2f}, iteration {record['iteration']:,}"
