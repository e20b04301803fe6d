"""Which model to take: the best for a cost, and those that the noise cannot tell from the best."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest
from rows import ap, flops, latency, memory

from reports import overview
from reports.frame import frame
from reports.overview import accuracy_name, pareto, summary

FAST, SLOW, ACCURATE = "FCOS_RT_MS_DLA_34_4x", "FCOS_R_50_1x", "FCOS_MS_R_101_2x"


@pytest.mark.parametrize(
    ("costs", "gains", "noise", "marks"),
    [
        ([10, 20, 30, 40], [30, 40, 35, 45], 0.0, ["best", "best", "", "best"]),
        ([10, 10], [40, 40], 0.0, ["best", "best"]),
        ([10, 10], [40, 39], 0.0, ["best", ""]),
        ([100, 104], [40, 40], [0.03, 0.04], ["best", "tied"]),  # within the noise of both
        ([100, 106], [40, 40], [0.03, 0.04], ["best", ""]),
        ([100, 500], [40, 40], [0.0, math.nan], ["best", "tied"]),  # an unknown noise
        ([math.nan, 20], [50, 40], 0.0, ["", "best"]),
        ([10, 20], [math.nan, 40], 0.0, ["", "best"]),
    ],
)
def test_the_best_models_are_not_dominated(
    costs: list[float], gains: list[float], noise: Any, marks: list[str]
) -> None:
    spread = pd.Series(noise) if isinstance(noise, list) else noise
    assert list(pareto(pd.Series(costs), pd.Series(gains), spread)) == marks


def test_the_summary_has_a_row_per_model_at_the_settings_that_most_share() -> None:
    rows = [
        latency(FAST, 10, precision="bf16"),
        latency(FAST, 20),
        latency(SLOW, 40),
        latency(ACCURATE, 50, precision="bf16"),
    ]
    models = summary(frame(rows))
    assert list(models["entry"]) == [FAST, SLOW, ACCURATE]
    assert list(models["settings"]) == ["bf16", "fp32", "bf16"]  # the first of equally many
    models = summary(frame([*rows, latency(ACCURATE, 90)]))
    assert list(models["settings"]) == ["fp32", "fp32", "fp32"]
    assert list(models["latency_ms"]) == [20, 40, 90]


def test_measured_ap_is_used_only_where_most_models_have_it() -> None:
    rows = [latency(FAST, 20), latency(SLOW, 40), latency(ACCURATE, 90)]
    assert accuracy_name(frame(rows)) == "AP on val2017, as published"
    assert list(summary(frame(rows))["accuracy"]) == [40.3, 38.7, 43.1]
    rows += [ap(FAST, "coco_val_ccby", 31), ap(SLOW, "coco_val_ccby", 31)]
    assert accuracy_name(frame(rows)) == "AP on coco_val_ccby"
    measured = summary(frame(rows))["accuracy"]
    assert list(measured.round(1).fillna(0)) == [37.1, 37.1, 0]


def test_the_page_answers_by_budget_and_has_a_row_per_model() -> None:
    rows = [latency(FAST, 20), latency(SLOW, 40), latency(ACCURATE, 90), memory(FAST, 1.5)]
    files = overview.files([*rows, memory(SLOW, 2.5), memory(ACCURATE, 3.5)])
    assert list(files) == ["README.md", "latency.svg", "predicted-training-memory.svg"]
    page = files["README.md"]
    assert f"| {FAST} | 40.3 | 20.0 ± 1% |" in page
    assert f"| {ACCURATE} | 43.1 | 3.50 |" in page
    assert f"| {SLOW} | 38.7 | 40.0 | 1% | 2.50 |  |  |" in page
    assert f"| {SLOW} | 38.7 | 40.0 ±" not in page  # dominated


def test_figures_of_few_models_are_named_and_not_a_column_of_dashes() -> None:
    rows = [latency(FAST, 20), latency(SLOW, 40), latency(ACCURATE, 90), flops(FAST, 30)]
    page = overview.files(rows)["README.md"]
    assert "GFLOPs |" not in page
    assert "[measured.md](measured.md) also has figures of fewer models: GFLOPs." in page


def test_each_machine_has_its_own_choice_and_charts() -> None:
    rows = [latency(FAST, 20), latency(SLOW, 40), latency(SLOW, 5, facts={"gpu": "Some GPU"})]
    files = overview.files([{**row} for row in rows])
    assert "## Some CPU, 2 cores" in files["README.md"]
    assert "some-cpu-2-cores-latency.svg" in files


def test_models_whose_ap_does_not_differ_in_the_same_draws_are_tied() -> None:
    draws = {SLOW: [0.36, 0.37, 0.38], FAST: [0.35, 0.38, 0.37], ACCURATE: [0.41, 0.42, 0.43]}
    rows = [
        row
        for number, (entry, aps) in enumerate(draws.items(), 1)
        for row in (
            latency(entry, 20 * number),
            ap(entry, values={"AP": sum(aps) / 3, "bootstrap": {"ap": aps}}),
        )
    ]
    assert list(summary(frame(rows))["as_accurate"]) == [[FAST], [SLOW], []]
    page = overview.files(rows)["README.md"]
    assert "| model | AP | ms | AP tied with |" in page
    assert f"| {SLOW} | 37.0 | 20.0 ± 1% | {FAST} |" in page
    fewer = [*rows[:3], ap(FAST, values={"bootstrap": {"ap": [0.37]}}), *rows[4:]]
    assert not any(summary(frame(fewer))["as_accurate"])  # not the same draws
