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
from matplotlib.transforms import Bbox

from reports.lines import Line, Row, threads
from reports.regenerated import GPUS
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
Point = tuple[str, float, float]
Curve = Sequence[tuple[float, float]]
Value = Callable[[Line], Any]


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


def look(number: int) -> tuple[str, str]:
    """Colour and marker of a series; the first 36 have all different ones."""
    return COLOURS[number % len(COLOURS)], MARKERS[sum(divmod(number, len(MARKERS))) % len(MARKERS)]


def ap_against_time(lines: Sequence[Line]) -> str:
    """AP and milliseconds an image: as published, and as measured on each machine."""
    return _ap_against(
        lines,
        "time",
        lambda line: line.published_ms,
        {"time": lambda line: _value(line, "latency", lambda v: v["median"])},
        "ms an image, batch 1",
    )


def ap_against_memory(lines: Sequence[Line]) -> str:
    """AP and the training memory of one process: as published, predicted, measured."""

    def published(line: Line) -> float | None:
        figures = line.published
        if "training_memory_per_gpu_gb" in figures:
            return float(figures["training_memory_per_gpu_gb"])
        total = figures.get("training_memory_gb")
        return float(total) / GPUS if total else None

    def of(key: str) -> Callable[[Line], float | None]:
        return lambda line: _value(line, "training_memory", lambda v: v.get(key))

    ours = {"predicted memory": of("predicted_gb"), "measured memory": of("measured_gb")}
    return _ap_against(lines, "memory", published, ours, "GB a process of 2 images")


def _ap_against(
    lines: Sequence[Line],
    what: str,
    published: Value,
    measured: Mapping[str, Value],
    heading: str,
) -> str:
    """A series of what was published, and two for each machine: with its own AP, and, where it
    measured none, with the published one."""
    lines = [line for line in lines if line.as_published and not line.of_user]
    series = {
        f"published AP and {what}": _points(lines, published, lambda ln: ln.published.get("ap"))
    }
    for machine in dict.fromkeys(line.machine for line in lines):
        mine = [line for line in lines if line.machine == machine]
        unmeasured = [line for line in mine if _measured_ap(line) is None]
        for name, figure in measured.items():
            series[f"AP and {name}, {machine}"] = _points(mine, figure, _measured_ap)
            series[f"published AP, {name} of {machine}"] = _points(
                unmeasured, figure, lambda ln: ln.published.get("ap")
            )
    return _scatter({k: v for k, v in series.items() if v}, heading, "AP on val2017")


def breakdown(lines: Iterable[Line]) -> str:
    """Stacked bars of the median time of each stage."""
    timed = [line for line in lines if _value(line, "latency", lambda v: v["median"])]
    if not timed:
        return ""
    with _figure(0.9 + 0.24 * len(timed)) as (figure, axes):
        left = [0.0] * len(timed)
        places = range(len(timed))  # two machines' bars have the same name
        for number, stage in enumerate(("preprocess", "network", "decode", "detect")):
            widths = [_stage(line, stage) for line in timed]
            if any(widths):
                label = {"decode": "decode + NMS", "detect": "all (peer)"}.get(stage, stage)
                axes.barh(places, widths, left=left, color=COLOURS[number], label=label)
                left = [a + b for a, b in zip(left, widths, strict=True)]
        axes.set_yticks(places, _names(timed))
        axes.margins(y=0.01)
        axes.grid(visible=False, axis="y")
        axes.invert_yaxis()
        axes.set_xlabel("ms an image, batch 1")
        _legend(figure)
        return _svg(figure)


def throughput(lines: Sequence[Line]) -> str:
    """Images a second over the batch size, a curve an entry and precision."""
    swept = [line for line in lines if any(map(_is_measured, line.sweeps))]
    curves = [
        [
            (row["cell"]["batch"], row["values"]["images_per_second"])
            for row in filter(_is_measured, line.sweeps)
        ]
        for line in swept
    ]
    kinds = [line.how for line in swept]
    return _curves(_names(swept), curves, "batch size", "images a second", log=2, kinds=kinds)


def epoch_curves() -> str:
    """The curves that are published: AP by epoch."""
    curves: dict[str, Curve] = {}
    for table in published.tables():
        for row in table.rows:
            cell = row.cells.get("map_mean")
            if isinstance(cell, list):
                curves[table.title] = [(epoch, 100 * ap) for epoch, ap in enumerate(cell, 1)]
    return _curves(list(curves), list(curves.values()), "epoch", "AP")


def _points(lines: Iterable[Line], across: Value, up: Value) -> list[Point]:
    placed: dict[str, Point] = {}
    for line in lines:
        x, y = across(line), up(line)
        if x and y is not None:
            placed.setdefault(line.entry, (line.entry, float(x), float(y)))
    return list(placed.values())


def _scatter(series: Mapping[str, Sequence[Point]], x: str, y: str) -> str:
    if not any(series.values()):
        return ""
    with _figure(4.2) as (figure, axes):
        tips: dict[str, str] = {}
        for number, (label, points) in enumerate(series.items()):
            colour, marker = look(number)
            axes.scatter([], [], label=label, color=colour, marker=marker)
            for name, across, up in points:
                gid = f"tip{len(tips)}"
                tips[gid] = f"{name}: {across:.4g}, {up:.1f} ({label})"
                axes.scatter([across], [up], gid=gid, s=28, color=colour, marker=marker)
        axes.set_xscale("log")
        for which in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            which(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 1)))
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        _legend(figure, columns=2)
        _label(figure, axes, [point for points in series.values() for point in points])
        return _svg(figure, tips)


def _curves(
    names: Sequence[str],
    curves: Sequence[Curve],
    x: str,
    y: str,
    log: int | None = None,
    kinds: Sequence[str] = (),
) -> str:
    """Curves with names; with `kinds`, one a curve, those have the colours and the legend."""
    if not curves:
        return ""
    with _figure(3.6) as (figure, axes):
        labels = kinds or names
        looks = {label: i for i, label in enumerate(dict.fromkeys(labels))}
        tips: dict[str, str] = {}
        for label, name, points in zip(labels, names, curves, strict=True):
            across, up = zip(*sorted(points), strict=True)
            colour, marker = look(looks[label])
            gid = f"tip{len(tips)}"
            tips[gid] = name
            axes.plot(across, up, marker=marker, markersize=3, color=colour, label=label, gid=gid)
        if log:
            axes.set_xscale("log", base=log)
            axes.xaxis.set_major_formatter("{x:g}")
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.margins(x=0.18)  # room for names behind the last points
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        _legend(figure, columns=2)
        if kinds:
            ends = [max(points) for points in curves]
            _label(figure, axes, [(name, *end) for name, end in zip(names, ends, strict=True)])
        return _svg(figure, tips)


def _label(figure: Figure, axes: Axes, points: Iterable[Point]) -> None:
    """Names beside points, each where it covers nothing else; all names are tooltips too."""
    points = list(points)
    figure.draw_without_rendering()
    frame = axes.get_window_extent()
    centres = axes.transData.transform([point[1:] for point in points])
    taken = [Bbox.from_bounds(x - 3, y - 3, 6, 6) for x, y in centres]
    for name, across, up in points:
        text = axes.annotate(
            name.removeprefix("FCOS_"), (across, up), (4, 3), textcoords="offset points", size=6
        )
        box = text.get_window_extent()
        if any(box.overlaps(other) for other in taken) or box.x1 > frame.x1:
            text.remove()
        else:
            taken.append(box)


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
    """What each look means, once."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    looks = dict(zip(reversed(labels), reversed(handles), strict=True))
    names = list(dict.fromkeys(labels))
    found = [looks[name] for name in names]
    figure.legend(found, names, frameon=False, loc="outside upper left", ncols=columns, fontsize=8)


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


def _is_measured(row: Row) -> bool:
    return bool(row["status"] == "measured")


def _names(lines: Sequence[Line]) -> list[str]:
    """What tells lines apart: entry, precision, a test size that is not the published one, and,
    where there are several, the machine."""
    several = len({line.machine for line in lines}) > 1
    names = []
    for line in lines:
        words = [line.entry, line.how, line.size, threads(line, lines)]
        names.append(" ".join(filter(None, [*words, f"({line.machine})" if several else ""])))
    return names


def _stage(line: Line, stage: str) -> float:
    stages = line.results["latency"]["values"]["stages"]
    return float(stages[stage]["median"]) if stage in stages else 0.0
