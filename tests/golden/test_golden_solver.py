"""Parameter groups and learning rates are those that the original systems' code set."""

from __future__ import annotations

import pytest
import training_fixtures as project

ENTRIES = sorted(path.stem.removeprefix("solver_") for path in project.FOLDER.glob("solver_*.json"))
# detectron2 lists these layers among the trained ones, though AdelaiDet never uses their output.
UNUSED = ("backbone.bottom_up.level3.project.", "backbone.bottom_up.level4.project.")


def group(label: str) -> project.Group | None:
    """("lr 0.01 wd 0.0001") -> (0.01, 0.0001)"""
    if label == "frozen":
        return None
    _, rate, _, decay = label.split()
    return float(rate), float(decay)


@pytest.fixture(scope="module", params=ENTRIES)
def fixture(request):
    return project.load(f"solver_{request.param}.json")


@pytest.fixture(scope="module")
def solver(fixture):
    keys = [key for keys in fixture["groups"].values() for key in keys]
    return project.solver(fixture["entry"], keys)


def test_every_parameter_has_the_original_rate_and_weight_decay(fixture, solver):
    expected = {key: group(label) for label, keys in fixture["groups"].items() for key in keys}
    unused = {key for key in expected if key.startswith(UNUSED)}
    assert all(solver.groups[key] is None for key in unused)
    assert {k: g for k, g in solver.groups.items() if k not in unused} == {
        k: g for k, g in expected.items() if k not in unused
    }
    assert not solver.unnamed


def test_the_learning_rate_follows_the_original_schedule(fixture, solver):
    factors = {iteration: solver.factor(int(iteration)) for iteration in fixture["schedule"]}
    assert factors == pytest.approx(fixture["schedule"], rel=2e-9, abs=0)  # nine digits are given
    assert solver.iterations == fixture["max_iter"]
    assert solver.nesterov == fixture["nesterov"]
