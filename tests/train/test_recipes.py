"""Every entry has a recipe that training can follow, with the systems' own habits."""

import numpy as np
import pytest

import zoo
from fcos.data.transforms import HorizontalFlip, ResizeShortestSide, SquareView
from fcos.train.datasets import build_transforms, largest_size
from fcos.train.optim import build_schedule, make_optimizer
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


@pytest.mark.parametrize("name", zoo.names())
def test_common_overrides_are_stated(name):
    """Hydra overrides only what is there: the rest would need a `+`."""
    config = zoo.card(name).config
    assert {"iterations", "steps"} <= config["schedule"].keys()
    frozen = set() if name == "FCOS_shapes_tiny" else {"frozen_stages"}
    assert {"norm", *frozen} <= config["backbone"].keys()


def test_only_the_centreness_free_system_learns_from_images_without_objects():
    # data/coco_csv.py: "keep at least 1 annotations in train"
    keeping = {name for name in zoo.names() if zoo.card(name).config["data"]["keep_empty"]}
    assert keeping == {"FCOS_R_50_noctr_2x"}


def steps(entry):
    return build_transforms(zoo.card(entry).config).transforms


def test_detectron2_draws_a_size_from_a_list():
    flip, resize = steps("FCOS_MS_R_50_2x")
    assert resize == ResizeShortestSide([640, 672, 704, 736, 768, 800], 1333, "choice", "nearest")
    assert flip == HorizontalFlip(0.5, plus_one=False)


@pytest.mark.parametrize("entry", ["FCOS_MM_R_50_1x", "FCOS_TV_R_50"])
def test_openmmlab_and_torchvision_resize_without_antialiasing(entry):
    _, resize = steps(entry)
    assert not resize.antialias


def test_maskrcnn_benchmark_draws_a_size_from_a_range_and_counts_the_last_pixel():
    resize, flip = steps("FCOS_imprv_R_101_FPN_2x")
    assert resize == ResizeShortestSide([640, 800], 1333, "range", "truncate")
    assert flip == HorizontalFlip(0.5, plus_one=True)


def test_the_centreness_free_system_looks_at_squares():
    # utils_box/dataset.py: mirrored first, then placed
    flip, view = steps("FCOS_R_50_noctr_2x")
    assert flip == HorizontalFlip(0.5, plus_one=False)
    assert view == SquareView(1025, (0.8, 1.0))


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
