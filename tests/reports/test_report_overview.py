"""Which model to take: the best for a cost, and those that the noise cannot tell from the best."""

from __future__ import annotations

import math

import pandas as pd
from rows import ap, flops, latency, memory

from reports import overview
from reports.frame import frame
from reports.summary import accuracy_name, pareto, summary

FAST, SLOW, ACCURATE = "FCOS_RT_MS_DLA_34_4x", "FCOS_R_50_1x", "FCOS_MS_R_101_2x"


def choice(costs: list[float], gains: list[float], noise: list[float] | float = 0.0) -> list[str]:
    spread = pd.Series(noise) if isinstance(noise, list) else noise
    return list(pareto(pd.Series(costs), pd.Series(gains), spread))


def test_pareto_optimal_models_are_not_dominated() -> None:
    assert choice([10, 20, 30, 40], [30, 40, 35, 45]) == ["best", "best", "", "best"]


def test_equals_are_all_best() -> None:
    assert choice([10, 10], [40, 40]) == ["best", "best"]
    assert choice([10, 10], [40, 39]) == ["best", ""]


def test_a_difference_within_the_noise_of_both_is_a_tie() -> None:
    assert choice([100, 104], [40, 40], [0.03, 0.04]) == ["best", "tied"]
    assert choice([100, 106], [40, 40], [0.03, 0.04]) == ["best", ""]


def test_an_unknown_noise_decides_nothing() -> None:
    assert choice([100, 500], [40, 40], [0.0, math.nan]) == ["best", "tied"]


def test_a_model_without_a_cost_or_an_ap_is_not_chosen() -> None:
    assert choice([math.nan, 20], [50, 40]) == ["", "best"]
    assert choice([10, 20], [math.nan, 40]) == ["", "best"]


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
    assert "Measured of fewer models, in [measured.md](measured.md): GFLOPs of 1." in page


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
    assert "| model | AP | from ms | AP tied with |" in page
    assert f"| {SLOW} | 37.0 | 20.0 ± 1% | {FAST} |" in page
    fewer = [*rows[:3], ap(FAST, values={"bootstrap": {"ap": [0.37]}}), *rows[4:]]
    assert not any(summary(frame(fewer))["as_accurate"])  # not the same draws
