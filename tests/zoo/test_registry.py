"""Facts of entries, read without Hydra and torch, and folders of a user's entries."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import zoo
from zoo import registry
from zoo.checkpoint import describe

CONVNEXT = """
defaults:
  - /system: adelaidet
  - /schedule: 1x
  - /augmentation: single_scale
  - _self_
backbone: {_target_: backbones.TimmBackbone, name: convnext_atto}
"""


@pytest.fixture(autouse=True)
def _nothing_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", [])
    monkeypatch.delenv("FCOS_ZOO_CONFIGS", raising=False)


@pytest.fixture
def entries(tmp_path: Path) -> Path:
    """A folder of two entries, one of them on a backbone of timm's."""
    folder = tmp_path / "my entries"
    (folder / "backbone").mkdir(parents=True)
    (folder / "FCOS_convnext_atto.yaml").write_text(CONVNEXT)
    (folder / "FCOS_narrow.yaml").write_text(
        "defaults: [/entry/FCOS_shapes_tiny@_here_, override /backbone: narrow, _self_]\n"
        "license: mine\nweights: []\nhead: {tower_depth: 1}\n"
    )
    (folder / "backbone" / "narrow.yaml").write_text(
        "# @package _global_\nbackbone: {_target_: backbones.TinyNet}\n"
    )
    return folder


def test_a_user_s_entries_are_registered(entries: Path) -> None:
    assert zoo.register(entries) == ["FCOS_convnext_atto", "FCOS_narrow"]
    assert zoo.register(entries) == ["FCOS_convnext_atto", "FCOS_narrow"]
    assert zoo.names("FCOS_[cn]*") == ["FCOS_convnext_atto", "FCOS_narrow"]
    card = zoo.card("FCOS_narrow")
    assert (card.family, card.license, card.weights) == ("shapes", "mine", ())
    assert zoo.build("FCOS_narrow").classes == ("circle", "square", "triangle")
    with pytest.raises(zoo.NoWeightsError, match="no weights were ever published"):
        zoo.get("FCOS_narrow")


def test_an_environment_variable_registers_folders(
    entries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FCOS_ZOO_CONFIGS", str(entries))
    assert zoo.card("FCOS_narrow").license == "mine"
    assert zoo.names("FCOS_narrow", license="permissive") == ["FCOS_narrow"]


def test_a_folder_cannot_replace_an_entry_of_the_zoo(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no entry"):
        zoo.register(tmp_path)
    (tmp_path / "FCOS_R_50_1x.yaml").write_text("source: mine")
    with pytest.raises(ValueError, match="the zoo already has FCOS_R_50_1x"):
        zoo.register(tmp_path)
    assert zoo.card("FCOS_R_50_1x").source != "mine"


def test_an_entry_on_a_timm_backbone_builds_and_harms_no_other(entries: Path) -> None:
    pytest.importorskip("timm")
    zoo.register(entries)
    detector = zoo.build("FCOS_convnext_atto").eval()
    with torch.inference_mode():
        assert len(detector.levels([torch.zeros(3, 64, 64)])) == 5
    with pytest.raises(zoo.NoWeightsError, match="the nearest entry with weights is FCOS_"):
        zoo.get("FCOS_convnext_atto")
    state = {"proposal_generator.fcos_head.cls_logits.bias": torch.zeros(2)}
    assert "fits no entry" in describe(state)
