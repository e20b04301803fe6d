"""The plots that people expect, as SVG that takes its text colour from the page around it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from reports.lines import Line
from reports.tables import training_gb
from zoo import published

# Okabe and Ito's colours, told apart by all kinds of colour vision, that stand out from both light
# and dark pages; the marker says the same again.
COLOURS = ("#56b4e9", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P")
INK = "#010203"  # replaced by the page's own text colour
INKED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fcos-zoo",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.2,
    "grid.color": INK,
    **dict.fromkeys(INKED, INK),
}
LABELLED = 40  # points of a series, more than that have their names as tooltips alone
Point = tuple[str, float, float]


def all_plots(lines: Sequence[Line]) -> dict[str, str]:
    """Every plot that the results have something for, by title."""
    plots = {
        "AP against time": ap_against_time(lines),
        "AP against training memory": ap_against_memory(lines),
        "Where the time goes": breakdown(lines),
        "Throughput against batch size": throughput(lines),
        "AP by epoch, as published": epoch_curves(),
    }
    return {title: svg for title, svg in plots.items() if svg}


def ap_against_time(lines: Iterable[Line]) -> str:
    """AP and milliseconds an image: as published, and as measured here."""
    lines = [line for line in lines if line.as_published]

    def theirs(line: Line) -> tuple[Any, Any]:
        return line.published_ms, line.published.get("ap")

    def ours(line: Line) -> tuple[Any, Any]:
        return _value(line, "latency", lambda v: v["median"]), _measured_ap(line)

    def mixed(line: Line) -> tuple[Any, Any]:
        if _measured_ap(line) is not None:
            return None, None
        return _value(line, "latency", lambda v: v["median"]), line.published.get("ap")

    series = {
        "published, on the GPUs of their day": _points(lines, theirs),
        "measured here": _points(lines, ours),
        "published AP, time measured here": _points(lines, mixed),
    }
    return _scatter(series, "ms an image, batch 1", "AP on val2017")


def ap_against_memory(lines: Iterable[Line]) -> str:
    """AP and the training memory of one process."""
    lines = [line for line in lines if line.as_published]

    def theirs(line: Line) -> tuple[Any, Any]:
        total = line.published.get("training_memory_gb")
        return total and float(total) / 8, line.published.get("ap")

    def ours(line: Line) -> tuple[Any, Any]:
        ap = _measured_ap(line)
        return _value(line, "training_memory", training_gb), ap or line.published.get("ap")

    series = {
        "published": _points(lines, theirs),
        "memory measured or predicted here": _points(lines, ours),
    }
    return _scatter(series, "GB a process of 2 images", "AP on val2017")


def breakdown(lines: Iterable[Line]) -> str:
    """Stacked bars of the median time of each stage."""
    timed = [line for line in lines if _value(line, "latency", lambda v: v["median"])]
    if not timed:
        return ""
    with _figure(0.9 + 0.24 * len(timed)) as (figure, axes):
        left = [0.0] * len(timed)
        names = [f"{line.entry} {line.how}" for line in timed]
        for number, stage in enumerate(("preprocess", "network", "decode", "detect")):
            widths = [_stage(line, stage) for line in timed]
            if any(widths):
                label = {"decode": "decode + NMS", "detect": "all (peer)"}.get(stage, stage)
                axes.barh(names, widths, left=left, color=COLOURS[number], label=label)
                left = [a + b for a, b in zip(left, widths, strict=True)]
        axes.invert_yaxis()
        axes.set_xlabel("ms an image, batch 1")
        _legend(figure)
        return _svg(figure)


def throughput(lines: Iterable[Line]) -> str:
    """Images a second over the batch size, a curve an entry and precision."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        for row in line.sweeps:
            if row["status"] == "measured":
                name = f"{line.entry} {line.how}"
                point = (row["cell"]["batch"], row["values"]["images_per_second"])
                curves.setdefault(name, []).append(point)
    return _curves(curves, "batch size", "images a second", log=2)


def epoch_curves() -> str:
    """The curves that are published: AP by epoch."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for table in published.tables():
        for row in table.rows:
            cell = row.cells.get("map_mean")
            if isinstance(cell, list):
                curves[table.title] = [(epoch, ap) for epoch, ap in enumerate(cell, 1)]
    return _curves(curves, "epoch", "AP")


def _points(lines: Iterable[Line], place: Callable[[Line], tuple[Any, Any]]) -> list[Point]:
    placed: dict[str, Point] = {}
    for line in lines:
        x, y = place(line)
        if x and y is not None:
            placed.setdefault(line.entry, (line.entry, float(x), float(y)))
    return list(placed.values())


def _scatter(series: Mapping[str, Sequence[Point]], x: str, y: str) -> str:
    if not any(series.values()):
        return ""
    with _figure(4.2) as (figure, axes):
        tips: dict[str, str] = {}
        for number, (label, points) in enumerate(series.items()):
            if not points:
                continue
            colour, marker = COLOURS[number], MARKERS[number]
            axes.scatter([], [], label=label, color=colour, marker=marker)
            for name, across, up in points:
                gid = f"tip{len(tips)}"
                tips[gid] = f"{name}: {across:.4g}, {up:.1f} ({label})"
                axes.scatter([across], [up], gid=gid, s=28, color=colour, marker=marker)
                if len(points) <= LABELLED:
                    text = name.removeprefix("FCOS_")
                    axes.annotate(text, (across, up), (4, 3), textcoords="offset points", size=6)
        axes.set_xscale("log")
        for which in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            which(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 1)))
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        _legend(figure)
        return _svg(figure, tips)


def _curves(
    curves: Mapping[str, Sequence[tuple[float, float]]], x: str, y: str, log: int | None = None
) -> str:
    if not curves:
        return ""
    with _figure(3.6) as (figure, axes):
        for number, (name, points) in enumerate(curves.items()):
            across, up = zip(*sorted(points), strict=True)
            marker, colour = MARKERS[number % len(MARKERS)], COLOURS[number % len(COLOURS)]
            axes.plot(across, up, marker=marker, markersize=3, color=colour, label=name)
        if log:
            axes.set_xscale("log", base=log)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        _legend(figure, columns=2)
        return _svg(figure)


@contextmanager
def _figure(height: float) -> Iterator[tuple[Figure, Axes]]:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, height), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        axes.set_axisbelow(True)
        yield figure, axes


def _legend(figure: Figure, columns: int = 3) -> None:
    figure.legend(frameon=False, loc="outside upper left", ncols=columns, fontsize=8)


def _svg(figure: Figure, tips: Mapping[str, str] | None = None) -> str:
    """The figure as an <svg> element: the same bytes each time, scaled by the page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"|height="[\d.]+pt" ', "", svg, count=1)
    for gid, text in (tips or {}).items():
        svg = svg.replace(f'<g id="{gid}">', f'<g id="{gid}"><title>{_escape(text)}</title>', 1)
    return re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _value(line: Line, metric: str, figure: Callable[[Mapping[str, Any]], Any]) -> Any:
    values = line.values(metric)
    return None if values is None else figure(values)


def _measured_ap(line: Line) -> float | None:
    ap = _value(line, "ap", lambda v: v["AP"] if v["split"] == "val2017" else None)
    return None if ap is None else 100 * float(ap)


def _stage(line: Line, stage: str) -> float:
    stages = line.results["latency"]["values"]["stages"]
    return float(stages[stage]["median"]) if stage in stages else 0.0
