"""Learning rates and parameter groups against the published recipes."""

import pytest
import torch
from torch import nn

import zoo
from fcos.train.optim import Schedule, build_schedule, for_epochs, make_optimizer
from zoo.config import compose_entry

NOCTR = "FCOS_R_50_noctr_2x"


def rates(entry, *iterations):
    config = zoo.card(entry).config
    at = build_schedule(config, epoch=7330)
    return [config["solver"]["base_lr"] * at(iteration) for iteration in iterations]


def test_detectron2_warms_up_linearly_from_a_thousandth():
    # WARMUP_FACTOR 0.001, WARMUP_ITERS 1000, STEPS (60000, 80000), BASE_LR 0.01
    got = rates("FCOS_R_50_1x", 0, 500, 1000, 59999, 60000, 79999, 80000, 89999)
    assert got == pytest.approx([1e-5, 0.005005, 0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001])


def test_maskrcnn_benchmark_warms_up_at_a_third():
    # WARMUP_METHOD constant, WARMUP_FACTOR 1/3, WARMUP_ITERS 500, STEPS (120000, 160000)
    got = rates("FCOS_imprv_R_101_FPN_2x", 0, 499, 500, 119999, 120000, 160000)
    assert got == pytest.approx([0.01 / 3, 0.01 / 3, 0.01, 0.01, 0.001, 0.0001])


@pytest.mark.parametrize(
    ("entry", "iterations"),
    [("FCOS_R_50_1x", 90000), ("FCOS_MS_V_39_3x", 270000), ("FCOS_RT_MS_R_50_4x", 360000)],
)
def test_a_schedule_is_as_long_as_published(entry, iterations):
    assert build_schedule(zoo.card(entry).config, epoch=7330).iterations == iterations


def test_a_schedule_in_epochs_follows_the_dataset():
    config = zoo.card("FCOS_MM_R_50_ms_2x").config  # drops after 16 and 22 epochs of 24
    at = build_schedule(config, epoch=1035.5)
    assert (at.iterations, at.steps) == (24852, [16568, 22781])
    of_two_images = build_schedule(config, epoch=2 / 128)
    assert of_two_images.iterations == 1


@pytest.mark.parametrize("entry", ["FCOS_R_50_1x", "FCOS_MM_R_50_1x", "FCOS_R_50_noctr_2x"])
def test_a_schedule_can_be_given_in_iterations(entry):
    """As `fcos-zoo train --help` recommends; no steps are none, and not the recipe's."""
    for steps in ([4000], []):
        given = ["schedule.iterations=5000", f"schedule.steps={steps}"]
        at = build_schedule(compose_entry(entry, given), epoch=7330)
        assert (at.iterations, at.steps) == (5000, steps)


@pytest.mark.parametrize(
    ("entry", "steps"),
    [("FCOS_R_50_1x", [13.3, 17.8]), ("FCOS_MM_R_50_1x", [13.3, 18.3]), (NOCTR, [13.5, 18.0])],
)
def test_other_numbers_of_epochs_move_the_steps_in_proportion(entry, steps):
    recipe = zoo.card(entry).config["schedule"]
    config = for_epochs(compose_entry(entry, ["epochs=20"]), recipe)
    assert config["schedule"]["step_epochs"] == pytest.approx(steps, abs=0.05)
    assert build_schedule(config, epoch=10).iterations == 200
    own = for_epochs(compose_entry(entry, ["epochs=20", "schedule.steps=[7]"]), recipe)
    assert build_schedule(own, epoch=10).steps == [7]
    with pytest.raises(ValueError, match="are both given"):
        for_epochs(compose_entry(entry, ["epochs=20", "schedule.iterations=7"]), recipe)


def test_a_schedule_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="ascending order"):
        Schedule(100, steps=(80, 60))


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.norm = nn.GroupNorm(2, 8)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def groups(**rules):
    model = Small()
    optimizer = make_optimizer(model, 0.01, weight_decay=1e-4, **rules)
    named = {id(p): name for name, p in model.named_parameters()}
    return {
        named[id(p)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }


def test_detectron2_spares_norms_from_decay():
    assert groups(norm_weight_decay=0.0) == {
        "conv.weight": (0.01, 1e-4),
        "conv.bias": (0.01, 1e-4),
        "norm.weight": (0.01, 0.0),
        "norm.bias": (0.01, 0.0),
    }


def test_maskrcnn_benchmark_doubles_the_rate_of_biases_and_spares_them_from_decay():
    assert groups(bias_lr_factor=2.0, bias_weight_decay=0.0) == {
        "conv.weight": (0.01, 1e-4),
        "conv.bias": (0.02, 0.0),
        "norm.weight": (0.01, 1e-4),
        "norm.bias": (0.02, 0.0),
    }


@pytest.mark.parametrize(
    ("entry", "norm_bias"),
    [
        ("FCOS_MM_R_50_1x", (0.01, 1e-4)),  # mmcv's DefaultOptimizerConstructor
        ("FCOS_imprv_R_50_FPN_1x", (0.02, 0.0)),  # fcos_core/solver/build.py
        ("FCOS_R_50_1x", (0.01, 0.0)),  # detectron2's build_optimizer
    ],
)
def test_biases_of_norms_learn_as_in_the_original(entry, norm_bias):
    solver = zoo.card(entry).config["solver"]
    rules = ("norm_weight_decay", "bias_lr_factor", "bias_weight_decay")
    assert groups(**{rule: solver[rule] for rule in rules})["norm.bias"] == norm_bias


def test_the_schedule_moves_all_groups_together():
    optimizer = make_optimizer(Small(), 0.01, bias_lr_factor=2.0)
    Schedule(100, steps=(50,)).apply(optimizer, 50)
    assert sorted(group["lr"] for group in optimizer.param_groups) == pytest.approx([0.001, 0.002])
    assert isinstance(optimizer, torch.optim.SGD)
