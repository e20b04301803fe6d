"""The page that answers which model to take: charts, the best models of each budget, one table."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from benchmarks.store import Row
from reports import plots
from reports.frame import frame, records
from reports.metrics import BY_NAME, METRICS
from reports.summary import (
    BEST,
    TIED,
    accuracy_name,
    common_settings,
    published_speeds,
    summary,
)
from reports.tables import GAP, markdown

# The costs to choose by: what they are called, and the label of their axis.
BUDGETS = {
    "latency_ms": ("latency", "ms per image, batch 1"),
    "peak_mb": ("memory of detection", "peak MB of a process that detects"),
    "train_gb": ("training memory", "GB of a training step of 2 images, measured"),
    "train_gb_predicted": (
        "predicted training memory",
        "predicted GB of a training step of 2 images",
    ),
}
INTRO = """\
Take the last **best** model that your budget of milliseconds or memory allows. A model is best if
no other one has at least its AP at a lower cost. It is **tied** if another one has, but the times
differ by less than the measured noise of both. Where APs were measured here, two of them are also
tied unless the same model is ahead in 95% of random draws of the images. All figures in all
settings, with their conditions, are in [measured.md](measured.md), and every published table, row
for row, in [published.md](published.md). `fcos-zoo report` makes these pages from the results."""
DETAILS = tuple(metric.name for metric in METRICS if not metric.compared)
COLUMNS = (
    *("latency_ms", "peak_mb", "train_gb", "train_gb_predicted"),
    *("images_per_second", "gflops", "params_m"),
)


def charts(table: pd.DataFrame, models: pd.DataFrame, log: bool = True) -> dict[str, str]:
    """The charts of one machine by title; those that there are no figures for are left out.

    Args:
        table: the tidy frame of the machine.
        models: its summary.
        log: whether costs have a logarithmic axis.
    """
    accuracy = accuracy_name(table)
    found = {}
    for cost, (title, axis) in BUDGETS.items():
        found[f"AP against {title}"] = plots.scatter(_points(models, cost), axis, accuracy, log)
    speeds = published_speeds(models["entry"]).rename(
        columns={"gpu": "series", "latency_ms": "x", "ap": "y"}
    )
    speeds = speeds.assign(noise=0.0, mark="")
    found["AP against time, both as published"] = plots.scatter(
        speeds, "ms, on the GPU of each table", "AP on val2017, as published", log
    )
    found["Where the time goes"] = plots.stage_bars(models)
    found["Throughput against batch size"] = plots.throughput(table)
    found["AP by epoch, as published"] = plots.epoch_curves(list(models["entry"]))
    return {title: svg for title, svg in found.items() if svg}


def files(rows: Sequence[Row]) -> dict[str, str]:
    """The page, README.md, and its charts, by file name."""
    written: dict[str, str] = {}
    parts = ["# Which model for which budget", INTRO]
    tables = list(frame(rows).groupby("machine", sort=False))
    for machine, table in tables:
        prefix = f"{_slug(str(machine))}-" if len(tables) > 1 else ""
        models = summary(table)
        parts += [f"## {machine}", _conditions(table, models)]
        drawn = charts(table, models)
        for cost, (title, _) in BUDGETS.items():
            heading = f"AP against {title}"
            points = _points(models, cost)
            if points.empty or heading not in drawn:
                continue
            name = f"{prefix}{_slug(title)}.svg"
            written[name] = plots.standalone(drawn[heading])
            parts += [f"### {heading}", f"![{heading}]({name})", _choices(points, cost)]
        parts += ["### All models", markdown(*compact(models)), _sparse(models)]
    return {"README.md": "\n\n".join(filter(None, parts)) + "\n", **written}


def compact(models: pd.DataFrame, every: bool = False) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of a table with a row per model.

    The most accurate model is first. Columns that are mostly empty are left out, unless `every`
    figure is asked for.
    """
    models = models.sort_values("accuracy", ascending=False, kind="stable")
    columns = {"model": list(models["entry"])}
    if models["machine"].nunique() > 1:
        columns["machine"] = list(models["machine"])
    if models["settings"].nunique() > 1:
        columns["settings"] = list(models["settings"])
    if len({runtime.split()[0] for runtime in models["runtime"].dropna()}) > 1:  # of any version
        columns["runtime"] = list(models["runtime"].fillna(GAP))
    for name in ("ap", "ap_published", *COLUMNS, *(DETAILS if every else ())):
        if not (_has(models, name) if every else _is_common(models, name)):
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
    return list(columns), [list(texts) for texts in zip(*columns.values(), strict=True)]


def _has(models: pd.DataFrame, name: str) -> bool:
    return name in models and bool(models[name].notna().any())


def _is_common(models: pd.DataFrame, name: str) -> bool:
    """Whether at least half of the models have this figure."""
    return _has(models, name) and 2 * int(models[name].notna().sum()) >= len(models)


def _sparse(models: pd.DataFrame) -> str:
    """The figures that too few models have for a column, with where they are."""
    rare = {
        metric.heading: int(models[metric.name].notna().sum())
        for metric in METRICS
        if metric.name in ("ap", *COLUMNS)
        and _has(models, metric.name)
        and not _is_common(models, metric.name)
    }
    listed = ", ".join(f"{heading} of {count}" for heading, count in rare.items())
    return f"Measured of fewer models, in [measured.md](measured.md): {listed}." if listed else ""


def _points(models: pd.DataFrame, cost: str) -> pd.DataFrame:
    """The models that have this cost and an AP to choose by, as points of a plot."""
    if cost not in models:
        return pd.DataFrame()
    points = pd.DataFrame(
        {
            "entry": models["entry"],
            "series": models["family"],
            "x": models[cost],
            "y": models["accuracy"],
            "noise": models["latency_ms_noise"] if cost == "latency_ms" else 0.0,
            "mark": models[f"{cost}_choice"],
            "as_accurate": models["as_accurate"],
        }
    )
    return points.dropna(subset=["x", "y"])


def _choices(points: pd.DataFrame, cost: str) -> str:
    """The best models from the cheapest on, each with those that are tied with it in cost, and
    with those whose AP is not different."""
    metric = BY_NAME[cost]
    best = points[points["mark"] == BEST].sort_values("x")
    tied = points[points["mark"] == TIED]
    rows = []
    for point in records(best):
        near = tied[tied["y"] <= point["y"]]
        near = near[near["y"] > max([y for y in best["y"] if y < point["y"]], default=-1)]
        noise = f" ± {100 * point['noise']:.0f}%" if point["noise"] > 0 else ""
        cells = [point["entry"], f"{point['y']:.1f}", metric.text(point["x"]) + noise]
        cells += [", ".join(near.sort_values("x")["entry"]), ", ".join(point["as_accurate"])]
        rows.append(cells)
    headings = ["model", "AP", metric.heading, "tied", "AP tied with"]
    filled = [place for place in range(5) if place < 3 or any(row[place] for row in rows)]
    return markdown(
        [headings[place] for place in filled], [[row[place] for place in filled] for row in rows]
    )


def _conditions(table: pd.DataFrame, models: pd.DataFrame) -> str:
    """What the figures of this machine have in common."""
    settings = common_settings(table)
    timed = table[(table["metric"] == "latency_ms") & table["measured"]]
    sentences = [f"{len(models)} models, chosen by {accuracy_name(table)}."]
    if settings:
        size = "" if "/" in settings else ", published test size"
        threads = "/".join(f"{n:.0f}" for n in sorted(timed["threads"].dropna().unique()))
        runtimes = ", ".join(timed["runtime"].unique())
        sentences.append(f"Speed: {settings}{size}, batch 1, {threads} threads, {runtimes}.")
        weights = timed.loc[timed["settings"] == settings, "weights"]
        if random := int((weights == "random").sum()):
            sentences.append(f"{random} of {len(weights)} times are with random weights.")
    return " ".join(sentences)


def _slug(text: str) -> str:
    return re.sub(r"\W+", "-", text).strip("-").lower()
