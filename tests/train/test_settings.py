"""A wrong setting is refused in one clear line; one of an earlier version has a new name."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Annotated, Literal

import pytest
from annotated_types import Ge
from tiny_detector import ENTRY

import zoo
from fcos.settings import SECTIONS, check, check_training
from tools import cli
from zoo.config import (
    RENAMED,
    build_detector,
    check_detector,
    compose_entry,
    quoted,
    rename_settings,
)


def test_the_signature_is_the_schema() -> None:
    def blur(images: list[str], kind: Literal["box", "gauss"], radius: Annotated[int, Ge(1)] = 1):
        return images, kind, radius

    check(blur, {"kind": "box", "radius": 3}, "blur", given=("images",))
    with pytest.raises(ValueError, match=re.escape("blur.kind=\"bxo\" should be 'box' or 'gauss'")):
        check(blur, {"kind": "bxo"}, "blur", given=("images",))
    with pytest.raises(ValueError, match=r"^blur\.kind is missing; blur\.radius=0 should be great"):
        check(blur, {"radius": 0}, "blur", given=("images",))
    with pytest.raises(ValueError, match=r"^blur\.raduis is not a setting: did you mean radius\?$"):
        check(blur, {"kind": "box", "raduis": 3}, "blur", given=("images",))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss.box=x", "loss.box=\"x\" should be 'giou', 'iou' or 'linear_iou'"),
        ("+head.box_scales=often", 'head.box_scales="often" should be a valid boolean'),
        ("images.mean=[1,x,2]", 'images.mean="x" should be a valid number'),
        ("+assigner.raduis=2", "assigner.raduis is not a setting: did you mean radius?"),
        (
            "backbone._target_=os.system",
            "backbone._target_=\"os.system\" should be 'backbones.DLA'",
        ),
        ("pyramid._target_=backbones.DLA", "should be 'fcos.FPN' or 'fcos.HRFPN'"),
        ("~loss", "loss=null should be an object"),
        ("resize.size=0", "resize.size=0 should be greater than or equal to 1"),
        ("images.mean=[110]", "images.mean=[110]: Value should have at least 3 items"),
        ("decoder.max_detections=-1", "decoder.max_detections=-1 should be greater than or equal"),
        ("decoder.score_threshold=inf", "decoder.score_threshold=Infinity should be"),
        ("decoder.nms=2", "decoder.nms is not a setting: did you mean nms_threshold?"),
        ("loss.gamma=nan", "loss.gamma=NaN should be"),
        ("backbone.widths=[16,32,64,0]", "backbone.widths=0 should be greater than or equal to 1"),
        ("augmentation.scale_range=[0.5,2]", "augmentation.scale_range=2 should be less than"),
        ("freeze=head", "freeze=\"head\" should be 'backbone'"),
        ("solver.base_rl=1", "solver.base_rl is not a setting: did you mean base_lr?"),
        ("+solver.freeze=backbone", "solver.freeze is not a setting: did you mean freeze?"),
        ("data.shapes.train.cuont=9", "data.shapes.train.cuont is not a setting: did you mean"),
        ("epoch=3", "epoch is not a setting: did you mean epochs?"),
        (
            "solver.accumulate=many",
            "solver.accumulate=\"many\" should be a valid integer or 'auto'",
        ),
        ("solver.compile=1", "solver.compile=1 should be a valid boolean"),
        ("solver=null", "solver=null should be an object"),
        ("schedule.iterations=1.5", "schedule.iterations=1.5 should be a valid integer"),
        ("schedule.iterations=null", "schedule.iterations and schedule.epochs are both null"),
        ("data.group=0", "data.aspect_ratio_group_size=0 should be"),
        ("run.loggers=[paper]", "should be 'tensorboard', 'wandb' or 'mlflow'"),
        (
            "+solver.warmup.factors=1",
            "solver.warmup.factors is not a setting: did you mean factor?",
        ),
        ("+nope=1", "nope is not a setting"),
    ],
)
def test_training_refuses_invalid_settings_before_it_starts(
    tmp_path, override: str, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        cli.run(["train", ENTRY, f"run.folder={tmp_path / 'run'}", override])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_building_refuses_it_too() -> None:
    config = compose_entry(ENTRY, ["decoder.clip=during"])
    with pytest.raises(ValueError, match=r"decoder\.clip=\"during\" should be 'before' or 'after'"):
        build_detector(config)
    config = compose_entry(ENTRY, ["assigner.size_ranges=[[0,8],[8,99]]"])
    with pytest.raises(ValueError, match=r"size_ranges has 2 ranges for 3 levels"):
        build_detector(config)


@pytest.mark.parametrize("name", zoo.names("*R_50*") + zoo.names("*HRNet_W18*") + [ENTRY])
def test_the_published_recipes_pass(name: str) -> None:
    config = zoo.card(name).config
    check_training(config)
    check_detector(config)


def test_a_section_may_be_given_as_a_whole() -> None:
    section = {"shortest": [96, 128], "longest": 160}
    config = compose_entry(ENTRY, ["augmentation={shortest:[96,128],longest:160}"])
    assert config["augmentation"] == section
    with pytest.raises(ValueError, match="augmentaton is not a setting: did you mean augmentation"):
        check_training(compose_entry(ENTRY, ["augmentaton={longest:160}"]))


def test_every_setting_has_a_default() -> None:
    config = compose_entry(ENTRY)
    for key in ("solver", "data", "init", "run"):
        assert {field.name for field in fields(SECTIONS[key])} == set(config[key])


def test_paths_may_have_characters_of_the_grammar() -> None:
    for path in ("a,b.json", "a=b(c#d e.json", "${x}", "[1", "é椅子.json", "~x", "a'b"):
        assert compose_entry(ENTRY, [f"data.train={path}"])["data"]["train"] == path
    assert compose_entry(ENTRY, ["data.test='my test.json'"])["data"]["test"] == "my test.json"
    assert compose_entry(ENTRY, ["data.test=null"])["data"]["test"] is None


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("solver.nan=skip", "solver.on_nonfinite", "skip"),
        ("solver.recompute=true", "solver.activation_checkpointing", True),
        ("solver.fused=true", "solver.fused_optimizer", True),
        ("data.group=1", "data.aspect_ratio_group_size", 1),
        ("run.backbone=null", "init.backbone", None),
        ("run.weights=my.pth", "init.checkpoint", "my.pth"),
        ("+loss.images_together=4", "loss.normalizer_group", 4),
    ],
)
def test_an_override_by_its_old_name(override, path, value):
    section, key = path.split(".")
    assert compose_entry(ENTRY, [override])[section][key] == value


def test_other_overrides_stay_as_they_are():
    overrides = ["solver.base_lr=0.1", "~data.shapes", "run.seed=1"]
    assert quoted(overrides) == overrides
    assert quoted(["init.checkpoint=run.weights=1"]) == ["init.checkpoint='run.weights=1'"]


def test_a_configuration_with_old_names():
    """As in the file of a model of one's own, whose setting replaces the default."""
    old = {"solver": {"nan": "skip", "on_nonfinite": "stop"}, "run": {"weights": "my.pth"}}
    new = rename_settings(old)
    assert new == {
        "solver": {"on_nonfinite": "skip"},
        "run": {},
        "init": {"checkpoint": "my.pth"},
    }
    assert old["solver"]["nan"] == "skip"  # the argument is not changed


@pytest.mark.parametrize("name", RENAMED.values())
def test_every_new_name_exists(name):
    config = compose_entry("FCOS_HRNet_W18_5l_2x")
    section, key = name.split(".")
    assert key in config[section]
