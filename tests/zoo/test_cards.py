"""The zoo's entries: their names, cards and configurations, and folders of a user's entries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.version import base_at_least

import zoo
from zoo import registry
from zoo.checkpoint import describe
from zoo.config import build_detector, compose_entry
from zoo.initial_weights import facts_of
from zoo.published import tables
from zoo.registry import entry_of_file
from zoo.sources import source_of

# Millions of parameters of the original systems' own models.
PARAMETERS = {
    "FCOS_R_50_1x": 32.24,
    "FCOS_MS_R_101_2x": 51.18,
    "FCOS_MS_X_101_32x8d_2x": 95.33,
    "FCOS_MS_X_101_64x4d_2x": 89.99,
    "FCOS_MS_X_101_32x8d_dcnv2_2x": 102.67,
    "FCOS_RT_MS_DLA_34_4x_shtw": 19.83,
    "FCOS_RT_MS_DLA_34_4x": 22.19,
    "FCOS_RT_MS_DLA_34_4x_bn": 22.20,
    "FCOS_RT_MS_R_50_4x": 31.11,
    "FCOS_RT_MS_R_50_4x_bn": 31.12,
    "FCOS_MS_V_39_3x": 33.63,
    "FCOS_imprv_dcnv2_R_50_FPN_1x": 33.24,
    "FCOS_R_50_6l_2x": 32.90,
    "FCOS_HRNet_W18_5l_2x": 17.50,
    "FCOS_HRNet_W18_6l_2x": 18.09,
    "FCOS_HRNet_W32_5l_2x": 37.30,
    "FCOS_HRNet_W32_6l_2x": 37.89,
    "FCOS_HRNet_W40_6l_3x": 54.14,
    "FCOS_V_39_FPN_1x": 30.02,
    "FCOS_V_57_FPN_2x": 44.05,
    "FCOS_V_93_FPN_2x": 64.63,
}


@pytest.mark.parametrize("name", zoo.names())
def test_an_entry_composes_with_the_facts_of_its_card(name: str) -> None:
    card, detector = zoo.card(name), build_detector(zoo.card(name).config, empty=True)
    assert card.name == name
    for key in ("family", "repository", "source", "license", "permissive"):
        assert getattr(card, key) == card.config[key]
    assert card.weights == tuple(map(source_of, card.config.get("weights") or ()))
    assert card.family in {"shapes", *(table.system for table in tables())}
    assert card.license
    assert card.source
    assert len(detector.classes) == detector.head.num_classes
    assert detector.head.strides == detector.pyramid.strides
    assert len(detector.assigner.size_ranges) == len(detector.head.strides)
    assert (detector.head.quality is None) == (detector.loss.quality is None)
    imagenet = card.config.get("imagenet")
    assert imagenet is None or facts_of(imagenet)
    if name in PARAMETERS:
        assert round(sum(p.numel() for p in detector.parameters()) / 1e6, 2) == PARAMETERS[name]


@pytest.mark.parametrize("name", zoo.names())
def test_every_card_says_where_its_weights_are_or_were(name: str) -> None:
    card = zoo.card(name)
    live = [place for place in card.weights if not place.dead]
    assert card.weights[: len(live)] == tuple(live), "dead places come last"
    for place in card.weights:
        assert place.remote or Path(place.url).is_file()
        assert not place.dead or place.note, "a dead place says why"
        if "dropbox.com" in place.url:
            assert place.dead or "not tried here" in place.note
    if live:
        assert card.filename is not None
        assert card.filename.endswith(".pth")


def test_published_figures_are_of_the_newest_page() -> None:
    figures = zoo.card("FCOS_R_50_1x").published
    assert figures["ap"] == 38.7
    assert "printed" not in figures


def test_published_figures_are_of_the_entry_s_own_version_and_all_in_per_cent() -> None:
    figures = zoo.card("FCOS_R_50_noctr_2x").published
    assert (figures["ap"], figures["ap_small"], figures["ar_100"]) == (37.1, 19.8, 52.4)


def test_a_file_that_entries_share_is_of_the_one_with_its_name() -> None:
    assert entry_of_file("FCOS_R_101_FPN_2x.pth") == "FCOS_R_101_FPN_2x"
    assert entry_of_file("nobody.pth") is None


def test_an_application_that_runs_in_hydra_can_use_the_zoo(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("a: 1")
    with initialize_config_dir(str(tmp_path), version_base="1.2"):
        assert zoo.card("FCOS_R_50_1x").name in zoo.names()
        assert compose_entry("FCOS_R_50_1x")["family"] == "adelaidet"
        assert compose("mine").a == 1
        assert base_at_least("1.2")
        assert not base_at_least("1.3")


def test_names_take_shell_wildcards() -> None:
    everything = zoo.names()
    assert everything == sorted(everything)
    assert zoo.names("FCOS_imprv_dcnv2_R_*") == [
        "FCOS_imprv_dcnv2_R_101_FPN_2x",
        "FCOS_imprv_dcnv2_R_50_FPN_1x",
    ]
    assert zoo.names("FCOS_R_50_[56]l_2x") == ["FCOS_R_50_5l_2x", "FCOS_R_50_6l_2x"]
    assert zoo.names("nothing*") == []


@pytest.mark.parametrize("function", [zoo.card, zoo.build, zoo.get])
def test_an_unknown_name_suggests_the_nearest(function: Any) -> None:
    with pytest.raises(zoo.UnknownEntryError, match="did you mean FCOS_MS_R_101_2x"):
        function("FCOS_MS_R101_2x")
    with pytest.raises(LookupError, match="`fcos-zoo list` shows all"):
        function("YOLO")


def test_an_entry_is_built_for_any_number_of_classes() -> None:
    detector = zoo.build("FCOS_syncbn_bs32_c128_MNV2_FPN_1x", num_classes=3)
    assert detector.classes == ("0", "1", "2")
    assert detector.head.cls_logits.out_channels == 3
    assert detector.card is zoo.card("FCOS_syncbn_bs32_c128_MNV2_FPN_1x")
    own = zoo.build("FCOS_syncbn_bs32_c128_MNV2_FPN_1x", num_classes=80)
    assert own.classes[0] == "person"
    for wrong in (0, 2.5, "3"):
        with pytest.raises(ValueError, match=f"an integer of at least 1, not {wrong!r}"):
            zoo.build("FCOS_syncbn_bs32_c128_MNV2_FPN_1x", num_classes=wrong)  # type: ignore[arg-type]


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


def test_a_changed_configuration_changes_no_later_detector() -> None:
    zoo.card("FCOS_shapes_tiny").config["head"]["shared_depth"] = 9
    detector = zoo.build("FCOS_shapes_tiny")
    assert len(detector.head.shared_tower) == 2
    assert detector.settings is not None
    detector.settings["head"]["shared_depth"] = 9
    assert len(zoo.build("FCOS_shapes_tiny").head.shared_tower) == 2


def test_a_user_s_entries_are_registered(entries: Path) -> None:
    assert zoo.register(entries) == ["FCOS_convnext_atto", "FCOS_narrow"]
    assert zoo.register(entries) == ["FCOS_convnext_atto", "FCOS_narrow"]
    assert zoo.names("FCOS_[cn]*") == ["FCOS_convnext_atto", "FCOS_narrow"]
    card = zoo.card("FCOS_narrow")
    assert (card.family, card.license, card.weights) == ("shapes", "mine", ())
    assert zoo.build("FCOS_narrow").classes == ("circle", "square", "triangle")
    with pytest.raises(zoo.NoWeightsError, match="no weights were ever published"):
        zoo.get("FCOS_narrow")


def test_a_changed_entry_is_read_again_when_it_is_registered_again(entries: Path) -> None:
    parent = "defaults: [/entry/FCOS_shapes_tiny@_here_, _self_]\n"
    for depth in (1, 2):
        (entries / "FCOS_narrow.yaml").write_text(f"{parent}head: {{tower_depth: {depth}}}\n")
        zoo.register(entries)
        assert zoo.card("FCOS_narrow").config["head"]["tower_depth"] == depth


def test_weights_of_one_file_name_are_not_mixed_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FCOS_ZOO_HOME", str(tmp_path / "home"))
    weights = {name: tmp_path / name / "best.pth" for name in ("FCOS_one", "FCOS_two")}
    for name, path in weights.items():
        path.parent.mkdir()
        entry = f"defaults: [/entry/FCOS_shapes_tiny@_here_, _self_]\nweights: {path}\n"
        (tmp_path / f"{name}.yaml").write_text(entry)
        torch.save(zoo.build("FCOS_shapes_tiny").state_dict(), path)
    zoo.register(tmp_path)
    for name, path in weights.items():
        expected = torch.load(path)["head.cls_logits.weight"]
        assert torch.equal(zoo.get(name).head.cls_logits.weight, expected)
    path.write_bytes(b"\x80\x02 of somebody else")
    with pytest.raises(zoo.WeightsError, match="is damaged or not safe to read"):
        zoo.get(name)
    assert path.is_file()


def test_only_weights_of_the_zoo_keep_their_file_name_in_the_cache(tmp_path: Path) -> None:
    published, entry = zoo.card("FCOS_R_50_1x"), "defaults: [/entry/FCOS_R_50_1x@_here_, _self_]\n"
    (tmp_path / "FCOS_same.yaml").write_text(entry)
    for owner in ("a", "b"):
        address = f"weights: ['hf://{owner}/fcos/FCOS_R_50_1x.pth']\n"
        (tmp_path / f"FCOS_{owner}.yaml").write_text(entry + address)
    zoo.register(tmp_path)
    assert zoo.card("FCOS_same").filename == published.filename
    names = {zoo.card(name).filename for name in ("FCOS_a", "FCOS_b", "FCOS_same")}
    assert len(names) == 3


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("haed: {tower_depth: 1}", "haed is not a setting: did you mean head?"),
        ("head: [1,", "FCOS_wrong.yaml is not YAML: "),
        ("[defaults]", "FCOS_wrong.yaml holds no settings, but a list"),
        ("weights: [{url: a.pth, sise: 3}]", "FCOS_wrong.yaml: weights are an address or path, or"),
        ("defaults: [/system: nowhere]", "FCOS_wrong: .*Could not find 'system/nowhere'"),
    ],
)
def test_a_mistake_in_an_entry_is_named(tmp_path: Path, text: str, message: str) -> None:
    text = text if "defaults" in text else f"defaults: [/entry/FCOS_shapes_tiny@_here_]\n{text}"
    (tmp_path / "FCOS_wrong.yaml").write_text(text)
    zoo.register(tmp_path)
    with pytest.raises(ValueError, match=message):
        zoo.build("FCOS_wrong")


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
