"""Every entry has a recipe that training can follow: its images, learning rates and optimiser.

The rates of the original code are compared exactly in `tests/golden/test_golden_solver.py`.
"""

import numpy as np
import pytest
from torch import nn

import zoo
from fcos.data.transforms import (
    HorizontalFlip,
    ResizeShortestSide,
    SquareView,
    build_transforms,
    largest_size,
)
from fcos.train.optim import Schedule, build_schedule, make_optimizer, resolved
from zoo.config import compose_entry
from zoo.registry import CONFIGS


@pytest.mark.parametrize("name", zoo.names())
def test_every_entry_can_be_trained(name):
    config = zoo.card(name).config
    times = build_schedule(config, epoch=7330)
    assert 3000 <= times.iterations <= 360000
    assert all(step < times.iterations for step in times.steps)
    assert len(build_transforms(config).transforms) >= 1
    assert config["solver"]["batch"] in (8, 16, 32)
    assert config["data"]["train"]
    # Hydra overrides only what is there: the rest would need a `+`.
    assert {"iterations", "steps"} <= config["schedule"].keys()
    frozen = set() if name == "FCOS_shapes_tiny" else {"frozen_stages"}
    assert {"norm", *frozen} <= config["backbone"].keys()


def test_only_the_centreness_free_system_learns_from_images_without_objects():
    # data/coco_csv.py: "keep at least 1 annotations in train"
    keeping = {name for name in zoo.names() if zoo.card(name).config["data"]["keep_empty"]}
    assert keeping == {"FCOS_R_50_noctr_2x"}


SIZES = [640, 672, 704, 736, 768, 800]


@pytest.mark.parametrize(
    ("entry", "steps"),
    [
        # detectron2 draws a size from a list.
        (
            "FCOS_MS_R_50_2x",
            [HorizontalFlip(), ResizeShortestSide(SIZES, 1333, "choice", "nearest")],
        ),
        # OpenMMLab and torchvision resize without antialiasing.
        (
            "FCOS_MM_R_50_1x",
            [HorizontalFlip(), ResizeShortestSide([800], 1333, antialias=False)],
        ),
        (
            "FCOS_TV_R_50",
            [HorizontalFlip(), ResizeShortestSide([800], 1333, rounding="floor", antialias=False)],
        ),
        # maskrcnn-benchmark draws a size from a range, flips afterwards and counts the last pixel.
        (
            "FCOS_imprv_R_101_FPN_2x",
            [
                ResizeShortestSide([640, 800], 1333, "range", "truncate"),
                HorizontalFlip(plus_one=True),
            ],
        ),
        # The centre-ness-free system's utils_box/dataset.py flips, then places in a square.
        ("FCOS_R_50_noctr_2x", [HorizontalFlip(), SquareView(1025, (0.8, 1.0))]),
    ],
)
def test_images_are_augmented_as_published(entry, steps):
    assert build_transforms(zoo.card(entry).config).transforms == steps


@pytest.mark.parametrize("pattern", ["FCOS_MM_HRNet_*", "FCOS_syncbn_bs32_*"])
def test_four_images_share_an_orientation_where_a_gpu_had_four(pattern):
    """OpenMMLab's `4x4` is 4 GPUs of 4 images; the original FCOS trains on 8 GPUs."""
    for name in zoo.names(pattern):
        assert zoo.card(name).config["data"]["aspect_ratio_group_size"] == 4


def test_openmmlabs_resnext_starts_from_openmmlabs_weights():
    # open-mmlab://resnext101_64x4d
    name = zoo.card("FCOS_MM_X_101_64x4d_ms_2x").config["imagenet"]
    facts = (CONFIGS / "imagenet" / f"{name}.yaml").read_text()
    assert "openmmlab.com/pretrain/third_party/resnext101_64x4d-ee2c6f71.pth" in facts


def test_torchvision_trains_in_half_precision():
    assert zoo.card("FCOS_TV_R_50").config["solver"]["precision"] == "fp16"  # --amp


def test_the_largest_images_of_a_recipe():
    class Dataset:
        sizes = np.array([[100, 160], [160, 120]])

    def largest(entry):
        return largest_size(zoo.card(entry).config["augmentation"], Dataset)

    assert largest("FCOS_MS_R_50_2x") == (800, 1333)
    assert largest("FCOS_RT_MS_R_50_4x") == (608, 900)
    assert largest("FCOS_imprv_R_101_FPN_2x") == (800, 1333)
    assert largest("FCOS_R_50_noctr_2x") == (1025, 1025)
    assert largest("FCOS_shapes_tiny") == (160, 160)


def test_the_optimiser_holds_each_trained_parameter_once():
    detector = zoo.build("FCOS_shapes_tiny")
    detector.backbone.stages[0].requires_grad_(False)
    held = [p for group in make_optimizer(detector).param_groups for p in group["params"]]
    assert len(held) == len({id(p) for p in held})
    assert {id(p) for p in held} == {id(p) for p in detector.parameters() if p.requires_grad}


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
    [
        ("FCOS_R_50_1x", [13.3, 17.8]),
        ("FCOS_MM_R_50_1x", [13.3, 18.3]),
        ("FCOS_R_50_noctr_2x", [13.5, 18.0]),
    ],
)
def test_other_numbers_of_epochs_move_the_steps_in_proportion(entry, steps):
    recipe = zoo.card(entry).config
    config, _ = resolved(compose_entry(entry, ["epochs=20"]), recipe)
    assert config["schedule"]["step_epochs"] == pytest.approx(steps, abs=0.05)
    assert build_schedule(config, epoch=10).iterations == 200
    own, _ = resolved(compose_entry(entry, ["epochs=20", "schedule.steps=[7]"]), recipe)
    assert build_schedule(own, epoch=10).steps == [7]
    with pytest.raises(ValueError, match="are both given"):
        resolved(compose_entry(entry, ["epochs=20", "schedule.iterations=7"]), recipe)


def test_a_schedule_given_in_epochs_replaces_the_recipes_iterations():
    given = ["schedule.epochs=20", "schedule.step_epochs=[12,16]"]
    config, _ = resolved(compose_entry("FCOS_R_50_1x", given), zoo.card("FCOS_R_50_1x").config)
    at = build_schedule(config, epoch=10)
    assert (at.iterations, at.steps) == (200, [120, 160])


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
