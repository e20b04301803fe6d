"""Results rows as one tidy frame: a row per figure, with the settings of its measurement."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.cases import TIMED
from benchmarks.store import Row
from fcos.text import counted
from reports.metrics import BY_NAME, MAIN, METRICS, Metric

COLUMNS = (
    *("machine", "entry", "metric", "value", "noise", "note", "scope", "settings"),
    *("precision", "as_published", "threads", "batch", "weights", "split", "images", "input"),
    *("device", "runtime", "measurement", "measured", "rank", "time", "key", "draws"),
)
NOISY = 0.1  # relative noise from which a time is marked as uncertain
UNCERTAIN = "noise over 10% or not known"
THROTTLED = "the GPU was throttled during the measurement: not a valid time"
NAMES = {"benchmarks.baselines:torchvision_fcos": "torchvision's FCOS"}
MODEL = ["machine", "entry"]
SCOPES = {
    "settings": [*MODEL, "precision", "settings"],
    "precision": [*MODEL, "precision"],
    "model": MODEL,
}


def frame(rows: Iterable[Row]) -> pd.DataFrame:
    """Return the tidy frame of results rows, in their order.

    Columns:
        machine, entry, metric: the machine, the model and the metric, see `reports.metrics`.
        value: the figure, NaN if nothing was measured.
        noise: the relative noise; 0 if it is not timed, NaN if it is not known.
        note: why there is no value, or what to know about it.
        scope, measurement: those of the metric; its section, if it has one.
        settings: the precision and all other settings that are not the default, in words.
        as_published: whether they are those of the published tables: fp32, eager, the test size.
        precision, threads, batch, device: single settings.
        runtime: PyTorch, or the software that runs an exported file, with its version.
        weights: "published", "file" (the user's), "exported" (those of the measured file),
            "random", or a baseline's description.
        split, images, input: the images, their number, and their size.
        measured: whether there is a value.
        rank, time: the criteria of `best`.
        key: the key of the case.
        draws: for AP, its values in random draws of the images, in order; else None.
    """
    records = [record for row in rows for record in _records(row)]
    table = pd.DataFrame(records, columns=list(COLUMNS))
    table = table.astype({"measured": bool, "as_published": bool})  # also without rows
    timed = table[table["scope"] == "settings"]
    counts = timed.groupby(MODEL)["threads"].transform("nunique")
    several = counts[counts > 1].index
    words = table.loc[several, "threads"].map(lambda n: f" {n:.0f} thread{'s' if n > 1 else ''}")
    table.loc[several, "settings"] += words
    return table


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a frame as mappings by column."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def best(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return for each metric the figure that represents each group of `by`, in the frame's order.

    The criteria are, in this order: it was measured, not with the user's weights, on all of
    val2017, with published weights, on the most images, with the fastest batch size, and most
    recently.
    """
    ranked = table.sort_values(["rank", "time"], kind="stable")
    chosen = ranked.drop_duplicates([*by, "metric"], keep="last").index
    return table.loc[table.index.isin(chosen)]


def wide(table: pd.DataFrame, content: str = "value") -> pd.DataFrame:
    """Pivot the frame to a row per machine, entry and settings, and a column per metric.

    Figures of a model or a precision are repeated in each of its rows; they only get a separate row
    if nothing else was measured. `content` is the column that fills the cells; `runtime` names the
    software of the row's measurements.
    """
    keys = table[table["scope"] == "settings"][SCOPES["settings"]]
    for scope in ("precision", "model"):
        own = table[(table["scope"] == scope) & table["measured"]]
        known, wanted = (pd.MultiIndex.from_frame(each[SCOPES[scope]]) for each in (keys, own))
        keys = pd.concat([keys, own.loc[~wanted.isin(known), SCOPES["settings"]]])
    keys = keys.drop_duplicates()
    ran = best(table[(table["scope"] == "settings") & table["measured"]], SCOPES["settings"])
    runtimes = ran.groupby(SCOPES["settings"])["runtime"].agg(
        lambda texts: ", ".join(texts.unique())
    )
    keys = keys.join(runtimes, on=SCOPES["settings"])
    for scope, by in SCOPES.items():
        chosen = best(table[table["scope"] == scope], by)
        cells = chosen.pivot(index=by, columns="metric", values=content).reset_index()
        keys = keys.merge(cells, how="left", on=by)
    order = {tuple(name): i for i, name in enumerate(table[MODEL].drop_duplicates().to_numpy())}
    keys["place"] = [order[tuple(name)] for name in keys[MODEL].to_numpy()]
    keys["changed"] = keys["settings"] != "fp32"
    ordered = keys.sort_values(["place", "changed"], kind="stable", ignore_index=True)
    return ordered.drop(columns=["place", "changed"])


def _records(row: Row) -> Iterable[dict[str, Any]]:
    case, values = row["cell"], row["values"]
    measured, settings = row["status"] == "measured", settings_text(case)
    weights = values.get("weights", case["weights"].partition("@")[0])
    if weights == "file" and "runtime" in case:
        weights = "exported"  # whichever the file has
    split = values.get("split", (case["dataset"] or "").partition("@")[0])
    split += " at {}/{}".format(*case["size"]) if case["size"] else ""
    images = values.get("images", 0)
    context = {
        "machine": row["machine"],
        "entry": NAMES.get(case["entry"], case["entry"]),
        "precision": case["precision"],
        "settings": settings,
        "as_published": settings == "fp32" and "runtime" not in case,
        "threads": case["threads"] or row["environment"].get("threads"),
        "batch": case["batch"],
        "weights": weights,
        "split": split,
        "images": images,
        "input": values.get("input", ""),
        "device": case["device"],
        "runtime": case.get("runtime") or f"PyTorch {row['environment']['torch'].split('+')[0]}",
        "measured": measured,
        "time": row.get("time", ""),
        "key": row["key"],
    }
    figures: list[tuple[Metric, float, float, str]] = []
    if measured:
        noise = _noise(row)
        for metric in METRICS:
            value = metric.value(values) if metric.measurement == case["metric"] else None
            if value is not None:
                figures.append((metric, float(value), noise, _note(metric, row, noise)))
    else:
        status = "" if row["status"] == "missing" else f"{row['status']}: "
        figures.append((BY_NAME[MAIN[case["metric"]]], np.nan, np.nan, status + row["reason"]))
    standing = (
        measured,
        weights not in ("file", "exported"),
        split == "val2017",
        weights == "published",
        images,
    )
    for metric, value, noise, note in figures:
        speed = value if measured and metric.name == "images_per_second" else 0.0
        yield {
            **context,
            "metric": metric.name,
            "scope": metric.scope,
            "measurement": metric.section or metric.measurement,
            "value": value,
            "noise": noise,
            "note": note,
            "rank": (*standing, speed),
            "draws": _draws(values.get("bootstrap")) if metric.name == "ap" else None,
        }


def _draws(bootstrap: Any) -> list[float] | None:
    values = bootstrap.get("ap") if isinstance(bootstrap, Mapping) else None
    fine = isinstance(values, list) and all(isinstance(ap, float | int) for ap in values)
    return values if fine else None


def settings_text(case: Mapping[str, Any]) -> str:
    """Return the precision and every setting that is not the default, in words."""
    words = (
        case["precision"],
        "compiled" if case["compiled"] else "",
        "Winograd" if case.get("winograd") else "",
        case["layout"] if case["layout"] != "channels_last" else "",
        "{}/{}".format(*case["size"]) if case["size"] else "",
    )
    return " ".join(filter(None, words))


def _noise(row: Row) -> float:
    """Return the relative noise; NaN for a single process or too few runs."""
    values = row["values"]
    if row["cell"]["metric"] not in TIMED:
        return 0.0
    known = values.get("processes", 1) > 1 and values.get("noise") is not None
    return float(values["noise"]) if known else np.nan


def _note(metric: Metric, row: Row, noise: float) -> str:
    """Return what to know about a figure before comparing it with another."""
    values = row["values"]
    if metric.name.endswith("_predicted"):
        return "predicted, not measured"
    if metric.measurement in ("ap", "robustness"):
        return _ap_note(row)
    if metric.measurement not in TIMED:
        return ""
    state = values.get("state", {})
    throttled = (state.get("during") or state.get("after") or {}).get("gpu_throttled")
    uncertain = not noise <= NOISY or not values.get("stable", True)
    notes = (
        "random weights" if values.get("weights") == "random" else "",
        UNCERTAIN if uncertain else "",
        THROTTLED if throttled else "",
    )
    return "; ".join(filter(None, notes))


def _ap_note(row: Row) -> str:
    """Return "" for an AP that is comparable with the published one, else its images."""
    values, size = row["values"], row["cell"]["size"]
    if values["split"] == "val2017" and not size:
        return ""
    split, reduced = values["split"], f" at {size[0]}/{size[1]}" if size else ""
    where = split if " images of " in split else f"{counted(values['images'], 'image')} of {split}"
    return f"on {where}{reduced}, not on val2017 as published"


def provenance(rows: Iterable[Row]) -> list[str]:
    """List software, its commits, and commands of one machine's measurements, each once."""
    software: dict[str, dict[str, None]] = {}
    commands: dict[str, None] = {}
    for row in rows:
        facts = row["environment"]
        words = [f"torch {facts['torch']}", f"torchvision {facts['torchvision']}"]
        if "cuda" in facts:
            words += [f"CUDA {facts['cuda']}", f"cuDNN {facts['cudnn']}"]
            words += [f"driver {facts['driver']}"]
        commit = f"commit {facts['commit'][:10]}" if facts["commit"] else "no commit"
        changed = " with changes" if facts["dirty"] else ""
        versions = f"{', '.join(words)}, Python {facts['python']}"
        software.setdefault(versions, {})[commit + changed] = None
        commands[f"`{row['command']}`"] = None
    return [*(f"{words}: {', '.join(commits)}" for words, commits in software.items()), *commands]
