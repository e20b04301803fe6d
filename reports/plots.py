"""The plots of the reports, as SVG whose text has the colour of the surrounding page."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cbook import pts_to_poststep
from matplotlib.figure import Figure
from matplotlib.path import Path
from matplotlib.ticker import LogLocator, NullLocator
from matplotlib.transforms import Bbox

from reports.frame import records
from reports.metrics import BEST, TIED
from zoo import published

# The colours of Okabe and Ito, which people with any colour vision can tell apart, and which are
# visible on light and dark pages. Markers also distinguish the series.
COLOURS = ("#56b4e9", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#999999", "#0072b2")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK = "#010203"  # replaced by the text colour of the page
PLAIN: Any = {  # also that of training curves
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
}
STYLE: Any = {
    **PLAIN,
    "font.family": "sans-serif",
    "grid.alpha": 0.2,
    "grid.color": INK,
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK
    ),
}
STAGES = {"preprocess_ms": "preprocess", "network_ms": "network", "postprocess_ms": "postprocess"}
FEW = 16  # number of models up to which each point has its name
WIDE, NARROW = 6.0, 3.6  # inches; on a phone, letters of the narrow one are nearly twice as large


def style_of(number: int) -> tuple[str, str]:
    """Return colour and marker of a series; they repeat after 49."""
    return COLOURS[number % len(COLOURS)], MARKERS[sum(divmod(number, len(MARKERS))) % len(MARKERS)]


def scatter(points: pd.DataFrame, x: str, y: str, log: bool = True, width: float = WIDE) -> str:
    """Draw models as points, with a line through the best ones.

    Args:
        points: a row per point with `entry`, `series`, `x`, `y`, `noise` (relative, of x) and
            `mark` (see `overview.pareto`).
        x, y: the labels of the axes.
        log: whether the x axis is logarithmic.
        width: in inches.
    """
    if points.empty:
        return ""
    with _figure(f"{x} {log}", width) as (figure, axes):
        tips: dict[str, tuple[str, str]] = {}
        front = points[points["mark"] == BEST].sort_values("x")
        across, up = pts_to_poststep(front["x"], front["y"])
        axes.plot(across, up, color=INK, alpha=0.35, lw=1, zorder=0)
        for number, (series, own) in enumerate(points.groupby("series", sort=False)):
            colour, marker = style_of(number)
            axes.scatter([], [], label=series, color=colour, marker=marker)
            for point in records(own):
                gid = f"tip{len(tips)}"
                tips[gid] = (point["entry"], _tip(point, x, y))
                weak = 0.55 if point["mark"] == "" else 1.0
                size = 40 if point["mark"] == BEST else 24
                axes.scatter(
                    *([point["x"]], [point["y"]]), gid=gid, s=size, color=colour, marker=marker,
                    alpha=weak,
                )  # fmt: skip
        axes.margins(x=0.19, y=0.1)  # room for the names
        if log:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_locator(NullLocator())
        else:
            axes.set_xlim(left=0)
        axes.set_xlabel(x)
        axes.set_title(y, loc="left", size=9)  # easier to read than along the axis
        _legend(figure)
        ranked = points.sort_values("mark", key=lambda marks: marks.map([BEST, TIED, ""].index))
        named = ranked if len(points) <= FEW else ranked[ranked["mark"] == BEST]
        _label(figure, axes, named, points, Path(np.column_stack((across, up))))
        return _svg(figure, tips)


def stage_bars(models: pd.DataFrame, width: float = WIDE) -> str:
    """Draw the median time of each stage as stacked bars, the fastest model first."""
    if "latency_ms" not in models or models["latency_ms"].isna().all():
        return ""
    timed = models[models["latency_ms"].notna()].sort_values("latency_ms")
    widths = timed.reindex(columns=list(STAGES)).fillna(0.0)
    widths["whole"] = (timed["latency_ms"]).where(widths.sum(axis=1) == 0, 0.0)
    with _figure("stages", width, 0.9 + 0.19 * len(timed)) as (figure, axes):
        places = list(range(len(timed)))
        left = pd.Series(0.0, index=timed.index)
        tips: dict[str, tuple[str, str]] = {}
        for number, (column, label) in enumerate({**STAGES, "whole": "external detector"}.items()):
            if not widths[column].any():
                continue
            bars = axes.barh(places, widths[column], left=left, color=COLOURS[number], label=label)
            left += widths[column]
            for bar, entry, width in zip(bars, timed["entry"], widths[column], strict=True):
                bar.set_gid(f"tip{len(tips)}")
                tips[f"tip{len(tips)}"] = (entry, f"{entry}: {label} {width:.4g} ms")
        axes.set_yticks(places, [_short(name) for name in timed["entry"]], fontsize=7.5)
        axes.set_ylim(len(timed) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("ms per image, batch 1")
        axes.xaxis.set_label_position("top")  # visible without scrolling to the last model
        axes.xaxis.tick_top()
        _legend(figure)
        return _svg(figure, tips)


def throughput(figures: pd.DataFrame, width: float = WIDE) -> str:
    """Draw images per second by batch size, a curve per model and settings."""
    swept = figures[(figures["metric"] == "images_per_second") & figures["measured"]]
    curves = {
        (entry, f"{entry} {settings}".removeprefix("FCOS_")): own[["batch", "value"]].to_numpy()
        for (entry, settings), own in swept.groupby(["entry", "settings"], sort=False)
    }
    return _curves(curves, "batch size", "images per second", width, log=True)


def epoch_curves(entries: Sequence[str], width: float = WIDE) -> str:
    """Draw the published AP by epoch of these models."""
    curves = {}
    for table in published.tables():
        for row in table.rows:
            values = row.cells.get("map_mean")
            if row.entry and row.entry in entries and isinstance(values, list):
                curves[row.entry, table.title] = [
                    (epoch, 100 * ap) for epoch, ap in enumerate(values, 1)
                ]
    return _curves(curves, "epoch", "AP, as published", width)


def standalone(wide: str, narrow: str) -> str:
    """Return a plot as a separate file: the wide one or, on a phone, the narrow one of the same
    shape, with a text colour for light and dark pages."""
    size = wide[wide.index("viewBox") :].split('"')[1]
    style = """
svg { color: #1a1c1e }
@media (prefers-color-scheme: dark) { svg { color: #e4e6e8 } }
@media (max-width: 480px) { .wide { display: none } }
@media (min-width: 480.1px) { .narrow { display: none } }
"""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}"><style>{style}</style>\n'
        f'<g class="wide">{wide}</g><g class="narrow">{narrow}</g></svg>\n'
    )


def _curves(
    curves: Mapping[tuple[str, str], Any], x: str, y: str, width: float, log: bool = False
) -> str:
    """Draw curves by model and name."""
    if not curves:
        return ""
    with _figure(x, width) as (figure, axes):
        tips = {}
        for number, ((entry, name), points) in enumerate(curves.items()):
            across, up = zip(*sorted(map(tuple, points)), strict=True)
            colour, marker = style_of(number)
            gid = f"tip{number}"
            tips[gid] = (entry, name)
            axes.plot(across, up, marker=marker, markersize=3, color=colour, label=name, gid=gid)
        if log:
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xlabel(x)
        axes.set_title(y, loc="left", size=9)  # easier to read than along the axis
        if len(curves) == 1:
            axes.set_title(entry, loc="right", size=9)
        _legend(figure, column=3.0)
        return _svg(figure, tips)


def _tip(point: Mapping[str, Any], x: str, y: str) -> str:
    noise = "" if not point["noise"] > 0 else f" ± {100 * point['noise']:.0f}%"
    words = {BEST: "; none is better in both", TIED: "; as good as the best within the noise"}
    across, up = x.partition(",")[0], y.partition(",")[0]
    figures = f"{point['x']:.4g}{noise} {across}, {point['y']:.1f} {up}"
    return f"{point['entry']}: {figures}{words.get(point['mark'], '')}"


def _label(
    figure: Figure, axes: Axes, points: pd.DataFrame, marks: pd.DataFrame, line: Path
) -> None:
    """Write names beside points, unless they cover other names, marks or lines."""
    figure.draw_without_rendering()
    frame = axes.get_window_extent()
    places = axes.transData.transform(marks[["x", "y"]])
    radius = 4.5 * figure.dpi / 72  # of a mark
    line = line.transformed(axes.transData)
    taken: list[Bbox] = []
    for entry, across, up in points[["entry", "x", "y"]].itertuples(index=False):
        # There is nothing above the best ones on their left.
        for offset in ((-5, 3), (0, 7), (5, 3), (5, -9), (-5, -9)):
            text = axes.annotate(
                _short(entry), (across, up), offset, textcoords="offset points", size=8,
                ha={-5: "right", 0: "center", 5: "left"}[offset[0]],
            )  # fmt: skip
            box = text.get_window_extent()
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and box.y1 <= frame.y1
            free = not any(box.overlaps(other) for other in taken)
            crossed = line.intersects_bbox(box, filled=False)
            clear = not box.padded(radius).count_contains(places)
            if inside and free and not crossed and clear:
                taken.append(box)
                break
            text.remove()


def _short(name: str) -> str:
    """Return the name without the common prefix; for an external detector, its function's name."""
    return name.rpartition(":")[2].removeprefix("FCOS_")


@contextmanager
def _figure(name: str, width: float, height: float = 0.0) -> Iterator[tuple[Figure, Axes]]:
    """Make a figure (size in inches) whose elements have unique ids on a page, by its `name`."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": f"{name} {width}"}):
        figure = Figure(figsize=(width, height or 0.8 * width), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        axes.set_axisbelow(True)
        yield figure, axes


def _legend(figure: Figure, column: float = 1.2) -> None:
    """Draw a legend above the plot, with columns of this many inches."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(
            handles, labels, frameon=False, loc="outside upper left", fontsize=8,
            ncols=int(figure.get_figwidth() / column),
            handletextpad=0.3, columnspacing=1.0,
        )  # fmt: skip


def _svg(figure: Figure, tips: Mapping[str, tuple[str, str]]) -> str:
    """Return the figure as an <svg> element: the same bytes each time, scaled by the page.

    `tips` has the model and the tooltip for the id of each mark.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"|height="[\d.]+pt" ', "", svg, count=1)
    for gid, (entry, tip) in tips.items():
        mark = (
            f'<g class="mark" data-entry="{html.escape(entry)}"><title>{html.escape(tip)}</title>'
        )
        svg = svg.replace(f'<g id="{gid}">', mark, 1)
    return re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
