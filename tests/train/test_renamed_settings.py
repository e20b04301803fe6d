"""Settings of earlier versions still work under their old names."""

import pytest

from zoo.config import compose_entry
from zoo.overrides import RENAMED, rename_overrides, rename_settings


def setting(config, path):
    section, key = path.split(".")
    return config[section][key]


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
    assert setting(compose_entry("FCOS_shapes_tiny", [override]), path) == value


def test_other_overrides_stay_as_they_are():
    overrides = ["solver.base_lr=0.1", "~data.shapes", "init.checkpoint=run.weights=1"]
    assert rename_overrides(overrides) == overrides


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
