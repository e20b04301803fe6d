"""The page for choosing a model: charts, the best models for each budget, and a table of all."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from functools import cache

import numpy as np
import pandas as pd

import zoo
from benchmarks.store import Row
from reports import plots
from reports.frame import MODEL, best, frame, records, wide
from reports.metrics import BEST, BUDGETS, BY_NAME, TIED, published
from reports.tables import SHOWN, compact, count, markdown
from zoo import published as published_tables

INTRO = """\
A chart shows the AP of the models against what they cost: time or memory. The table below it lists
the **best** models, the cheapest first. No other model is at least as accurate as one of these and
costs less, so take the last one that your budget allows. A model is **tied** with a best one that
is at least as accurate and faster, if their times differ by less than the measured noise of both.
Where APs were measured here, two models are also tied unless the same one has the higher AP in 95%
of random draws of the images.

[measured.md](measured.md) has all figures in all settings, with their conditions, and
[published.md](published.md) has every published table, row by row. `fcos-zoo report` makes these
pages from the results."""
FAMILIES = {
    "adelaidet": "AdelaiDet",
    "fcos": "original FCOS",
    "hrnet": "HRNet-FCOS",
    "vovnet": "VoVNet-FCOS",
    "xytpai": "no centre-ness",
    "openmmlab": "OpenMMLab",
}


def charts(
    table: pd.DataFrame, models: pd.DataFrame, log: bool = True, width: float = plots.WIDE
) -> dict[str, str]:
    """Draw the charts of one machine, by title; those without figures are left out.

    Args:
        table: the tidy frame of the machine.
        models: its summary.
        log: whether costs have a logarithmic axis.
        width: in inches.
    """
    accuracy = accuracy_name(table)
    found = {}
    for cost, (title, axis) in BUDGETS.items():
        found[f"AP against {title}"] = plots.scatter(
            _points(models, cost), axis, accuracy, log, width
        )
    speeds = published_speeds(models["entry"]).rename(
        columns={"gpu": "series", "latency_ms": "x", "ap": "y"}
    )
    speeds = speeds.assign(noise=0.0, mark="")
    found["AP against time, both as published"] = plots.scatter(
        speeds, "ms, on the GPU of each table", "AP on val2017, as published", log, width
    )
    found["Where the time goes"] = plots.stage_bars(models, width)
    found["Throughput against batch size"] = plots.throughput(table, width)
    found["AP by epoch, as published"] = plots.epoch_curves(list(models["entry"]), width)
    return {title: svg for title, svg in found.items() if svg}


def files(rows: Sequence[Row]) -> dict[str, str]:
    """Return the page, README.md, and its charts, by file name."""
    written: dict[str, str] = {}
    parts = ["# Which model for which budget", INTRO]
    machines = list(frame(rows).groupby("machine", sort=False))
    for machine, table in machines:
        prefix = f"{_slug(str(machine))}-" if len(machines) > 1 else ""
        models = summary(table)
        parts += [f"## {machine}", _conditions(table, models)]
        drawn, narrow = (charts(table, models, width=w) for w in (plots.WIDE, plots.NARROW))
        for cost, (title, _) in BUDGETS.items():
            heading = f"AP against {title}"
            points = _points(models, cost)
            if points.empty or heading not in drawn:
                continue
            name = f"{prefix}{_slug(title)}.svg"
            written[name] = plots.standalone(drawn[heading], narrow[heading])
            parts += [f"### {heading}", f"![{heading}]({name})", _choices(points, cost)]
        parts += ["### All models", markdown(compact(models)), _sparse(models)]
    return {"README.md": "\n\n".join(filter(None, parts)) + "\n", **written}


def _sparse(models: pd.DataFrame) -> str:
    """Name the figures that too few models have for a column, and where they are."""
    counts = {BY_NAME[name].heading: count(models, name) for name in ("ap", *SHOWN)}
    rare = ", ".join(heading for heading, n in counts.items() if 0 < n < len(models) / 2)
    return f"[measured.md](measured.md) also has figures of fewer models: {rare}." if rare else ""


def _points(models: pd.DataFrame, cost: str) -> pd.DataFrame:
    """Return the models with this cost and an AP to choose by, as points of a plot."""
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
    """List the best models, the cheapest first, each with those that are tied with it in cost, and
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
    cells = pd.DataFrame(rows, columns=headings)
    empty = [heading for heading in headings[3:] if not any(cells[heading])]
    return markdown(cells.drop(columns=empty))


def _conditions(table: pd.DataFrame, models: pd.DataFrame) -> str:
    """Return the conditions that the figures of this machine have in common."""
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


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row per model of one machine, in the frame's order.

    Columns: `entry`, `settings`, `runtime`, the metrics that were measured, `latency_ms_noise`,
    `family`, `ap_published`, `accuracy`: the AP to choose by, which is the measured one if most
    models have it on the same images (see `accuracy_name`), else the published one; `as_accurate`,
    the models of tied AP (see `tied_accuracy`); and for each cost, such as `latency_ms`, a column
    `latency_ms_choice` (see `pareto`).
    """
    cells = wide(table)
    cells["latency_ms_noise"] = wide(table, "noise").get("latency_ms", np.nan)
    shared = common_settings(table)
    cells["other"] = cells["settings"] != shared
    first = cells.sort_values("other", kind="stable").drop_duplicates(MODEL).sort_index()
    models = first.drop(columns="other").reset_index(drop=True)
    cards = [_card(entry) for entry in models["entry"]]
    families = [card.family if card else "other" for card in cards]
    models["family"] = [FAMILIES.get(family, family) for family in families]
    models["ap_published"] = [
        published(card.published if card else {}, "ap") or np.nan for card in cards
    ]
    split = _shared_split(table)
    if split:
        own = best(table[(table["metric"] == "ap") & (table["split"] == split)], ["entry"])
        by_entry = own.set_index("entry")
        models["accuracy"] = models["entry"].map(by_entry["value"])
        ties = tied_accuracy({entry: draws for entry, draws in by_entry["draws"].items() if draws})
    else:
        models["accuracy"] = models["ap_published"]
        ties = {}
    models["as_accurate"] = [ties.get(entry, []) for entry in models["entry"]]
    for cost in models.columns.intersection(list(BUDGETS)):
        noise = models["latency_ms_noise"] if cost == "latency_ms" else 0.0
        models[f"{cost}_choice"] = pareto(models[cost], models["accuracy"], noise)
    return models


def common_settings(table: pd.DataFrame) -> str:
    """Return the settings in which the latency of most models was measured; the first in a tie."""
    timed = table[(table["metric"] == "latency_ms") & table["measured"]]
    counts = timed.groupby("settings", sort=False)["entry"].nunique()
    return str(counts.idxmax()) if len(counts) else ""


def accuracy_name(table: pd.DataFrame) -> str:
    """Return in words what the column `accuracy` of the summary holds."""
    split = _shared_split(table)
    return f"AP on {split}" if split else "AP on val2017, as published"


def _shared_split(table: pd.DataFrame) -> str:
    """Return the images on which the AP of at least half of the models was measured, else ""."""
    measured = table[(table["metric"] == "ap") & table["measured"]]
    counts = measured.groupby("split", sort=False)["entry"].nunique()
    enough = len(counts) and 2 * counts.max() >= table["entry"].nunique()
    return str(counts.idxmax()) if enough else ""


def pareto(cost: pd.Series, gain: pd.Series, noise: pd.Series | float = 0.0) -> pd.Series:
    """Mark each model as "best", "tied" or "".

    A model is "best" if no other one has at least its `gain` at less `cost` (or more gain at no
    more cost), and "tied" if others do, but none by more than the relative `noise` of both costs.
    An unknown noise counts as none. A model without cost or gain is neither.
    """
    own, other = cost.to_numpy()[:, None], cost.to_numpy()[None, :]
    at_least = gain.to_numpy()[None, :] >= gain.to_numpy()[:, None]
    more = gain.to_numpy()[None, :] > gain.to_numpy()[:, None]
    relative = np.broadcast_to(np.asarray(noise, dtype=float), cost.shape)
    margin = np.hypot(relative[:, None], relative[None, :])
    dominated = ((at_least & (other < own)) | (more & (other <= own))).any(1)
    bounded = other * (1 + margin)
    surely = ((at_least & (bounded < own)) | (more & (bounded <= own))).any(1)
    known = (cost.notna() & gain.notna()).to_numpy()
    marks = np.where(dominated, np.where(surely, "", TIED), BEST)
    return pd.Series(np.where(known, marks, ""), index=cost.index)


def tied_accuracy(draws: Mapping[Hashable, Sequence[float]]) -> dict[Hashable, list[str]]:
    """Return for each model the others whose AP is not different.

    Two models are different if in 95% of the same random draws of the images the differences of
    their APs have one sign.

    Args:
        draws: the APs of each model in these draws, see `benchmarks.analysis.bootstrap`.
    """

    def tied(one: Sequence[float], other: Sequence[float]) -> bool:
        if len(one) != len(other):  # on other images
            return False
        low, high = np.percentile(np.subtract(one, other), [2.5, 97.5])
        return bool(low <= 0 <= high)

    return {
        name: [str(other) for other in draws if other != name and tied(own, draws[other])]
        for name, own in draws.items()
    }


@cache
def _card(entry: str) -> zoo.Card | None:
    """Return the card of a model of the zoo; None for an external detector."""
    return zoo.card(entry) if entry in zoo.names() else None


def published_speeds(entries: pd.Series) -> pd.DataFrame:
    """Return published AP and milliseconds per image of these models, with the GPUs."""
    records = []
    for entry in entries:
        for table, row in published_tables.rows(entry):
            figures = {"entry": entry, "gpu": table.measured_on.gpu}
            for name in ("ap", "latency_ms"):
                figures[name] = published(row.cells, name)
            records.append(figures)
    speeds = pd.DataFrame(records, columns=["entry", "gpu", "ap", "latency_ms"])
    return speeds.dropna().drop_duplicates(["entry", "gpu"])
