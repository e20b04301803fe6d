"""Eight optimiser steps have the losses and movements of the original systems' code.

With drawn weights a rounding error grows about tenfold a step, and so do the limits. What a wrong
learning rate or weight decay does is held exactly by `test_golden_solver.py`.
"""

from __future__ import annotations

import pytest
import training_fixtures as project

LOSSES = ("loss_cls", "loss_box", "loss_quality")
TOTALS = {"loss", "grad_norm"}
MOVEMENT = 0.02  # of a tensor's movement in eight steps


def limit(step: int) -> float:
    """The relative difference tolerated in a loss."""
    return min(1e-5 * 10**step, 1e-2)


@pytest.fixture(scope="module", params=["FCOS_R_50_1x", "FCOS_R_50_noctr_2x"])
def fixture(request):
    return project.load(f"trajectory_{request.param}.json")


@pytest.fixture(scope="module")
def run(fixture):
    return project.train(fixture)


def test_losses_of_every_step(fixture, run):
    # Two systems give the losses one by one, in the order of ours; one gives their sum.
    ours = fixture["losses"] if set(fixture["losses"]) == TOTALS else LOSSES
    for ours_name, (name, expected) in zip(ours, fixture["losses"].items(), strict=True):
        for step, value in enumerate(expected):
            tolerance = limit(step) * (10 if name == "grad_norm" else 1)
            measured = run.records[step][ours_name]
            assert measured == pytest.approx(value, rel=tolerance), f"{name} of step {step}"


def test_learning_rate_of_every_step(fixture, run):
    assert [r["rate"] for r in run.records] == pytest.approx(fixture["rates"], rel=1e-9)


def test_every_tensor_moved_as_far_as_the_original(fixture, run):
    still = {key for key, distance in fixture["update_norms"].items() if distance == 0}
    assert {key for key, distance in run.movements.items() if distance == 0} == still
    assert run.movements == pytest.approx(fixture["update_norms"], rel=MOVEMENT, abs=0)
