"""One row per model, at the settings that most models share, and the best choice for a budget."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import cache

import numpy as np
import pandas as pd

import zoo
from reports.frame import MODEL, best, wide
from reports.metrics import published
from zoo import published as tables

BEST, TIED = "best", "tied"
COSTS = ("latency_ms", "peak_mb", "train_gb", "train_gb_predicted")  # what models are chosen by


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row per model of one machine, in the frame's order.

    Columns: `entry`, `settings`, `runtime`, the metrics that were measured, `latency_ms_noise`,
    `family`, `ap_published`, `accuracy`: the AP to choose by, which is the measured one where most
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
    models["family"] = [_family(entry) for entry in models["entry"]]
    models["ap_published"] = [published(_figures(e), "ap") or np.nan for e in models["entry"]]
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
    for cost in models.columns.intersection(COSTS):
        noise = models["latency_ms_noise"] if cost == "latency_ms" else 0.0
        models[f"{cost}_choice"] = pareto(models[cost], models["accuracy"], noise)
    return models


def common_settings(table: pd.DataFrame) -> str:
    """The settings in which the latency of most models was measured; the first of equals."""
    timed = table[(table["metric"] == "latency_ms") & table["measured"]]
    counts = timed.groupby("settings", sort=False)["entry"].nunique()
    return str(counts.idxmax()) if len(counts) else ""


def accuracy_name(table: pd.DataFrame) -> str:
    """What the column `accuracy` of the summary holds, in words."""
    split = _shared_split(table)
    return f"AP on {split}" if split else "AP on val2017, as published"


def _shared_split(table: pd.DataFrame) -> str:
    """The images on which the AP of at least half of the models was measured; "" if of fewer."""
    measured = table[(table["metric"] == "ap") & table["measured"]]
    counts = measured.groupby("split", sort=False)["entry"].nunique()
    enough = len(counts) and 2 * counts.max() >= table["entry"].nunique()
    return str(counts.idxmax()) if enough else ""


def pareto(cost: pd.Series, gain: pd.Series, noise: pd.Series | float = 0.0) -> pd.Series:
    """For each model "best", "tied" or "".

    A model is "best" if no other one has at least its `gain` at less `cost` (or more gain at no
    more cost), and "tied" if others do, but none by more than the relative `noise` of both costs.
    An unknown noise decides nothing. A model without cost or gain is neither.
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
    """For each model the others whose AP is not different from its own.

    Two models are different if in 95% of the same random draws of the images the differences of
    their APs have one sign.

    Args:
        draws: the APs of each model in these draws, see `benchmarks.analysis.bootstrap`.
    """

    def tied(one: Sequence[float], other: Sequence[float]) -> bool:
        if len(one) != len(other):  # of other images
            return False
        low, high = np.percentile(np.subtract(one, other), [2.5, 97.5])
        return bool(low <= 0 <= high)

    return {
        name: [str(other) for other in draws if other != name and tied(own, draws[other])]
        for name, own in draws.items()
    }


@cache
def _figures(entry: str) -> dict[str, object]:
    """The published figures of a model of the zoo; none for an external detector."""
    return dict(zoo.card(entry).published) if entry in zoo.names() else {}


def _family(entry: str) -> str:
    return zoo.card(entry).family if entry in zoo.names() else "other"


def published_speeds(entries: pd.Series) -> pd.DataFrame:
    """Published AP and milliseconds per image of these models, each with the GPU of its table."""
    records = []
    for entry in entries:
        for table, row in tables.rows(entry):
            figures = {"entry": entry, "gpu": table.measured_on.gpu}
            for name in ("ap", "latency_ms"):
                figures[name] = published(row.cells, name)
            records.append(figures)
    speeds = pd.DataFrame(records, columns=["entry", "gpu", "ap", "latency_ms"])
    return speeds.dropna().drop_duplicates(["entry", "gpu"])
