"""`zoo.get(name, weights=...)`: files that training here wrote, published ones, refused ones."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import zoo
from fcos import Detector
from fcos.train.checkpoint import release
from zoo.checkpoint import write_safetensors
from zoo.config import build_detector
from zoo.files import UnreadableError

ENTRY = "FCOS_shapes_tiny"  # its card states the hash of its file
SMALL = "FCOS_syncbn_bs32_c128_MNV2_FPN_1x"  # of the original FCOS
CLASSES = ["cat", "dog", "hat", "mat", "rat"]


@pytest.fixture
def trained() -> Detector:
    """A detector of classes of its own."""
    torch.manual_seed(0)
    card = zoo.card(ENTRY)
    detector = build_detector({**card.config, "classes": CLASSES})
    detector.card = card
    return detector


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_a_trained_file_brings_its_classes(tmp_path: Path, trained: Detector, kind: str) -> None:
    path = tmp_path / f"released.{kind}"
    if kind == "pth":
        release(trained.state_dict(), trained.classes, ENTRY, path)
    else:
        write_safetensors(trained, path)
    detector = zoo.get(ENTRY, weights=path)
    assert detector.classes == tuple(CLASSES)
    image = torch.rand(3, 64, 64)
    for ours, theirs in zip(detector.levels([image]), trained.eval().levels([image]), strict=True):
        torch.testing.assert_close(ours.logits, theirs.logits)


def test_a_file_takes_no_other_weights() -> None:
    with pytest.raises(ValueError, match="has weights of its own: name an entry, or leave"):
        zoo.get("runs/mine/best.pth", weights="other.pth")


def test_a_file_of_another_entry_is_refused_by_name(tmp_path: Path, trained: Detector) -> None:
    release(trained.state_dict(), CLASSES, "FCOS_R_50_1x", tmp_path / "other.pth")
    with pytest.raises(zoo.CheckpointError, match=r"holds a trained FCOS_R_50_1x.*zoo\.get"):
        zoo.get(ENTRY, weights=tmp_path / "other.pth")


def test_class_names_that_do_not_fit_the_tensors_are_refused(
    tmp_path: Path, trained: Detector
) -> None:
    release(trained.state_dict(), CLASSES[:3], ENTRY, tmp_path / "cut.pth")
    with pytest.raises(zoo.CheckpointError, match=r"head\.cls_logits\.bias 5 instead of 3"):
        zoo.get(ENTRY, weights=tmp_path / "cut.pth")


def with_header(path: Path, header: dict[str, str]) -> None:
    state = {key: value.contiguous() for key, value in zoo.build(ENTRY).state_dict().items()}
    save_file(state, path, metadata=header)


@pytest.mark.parametrize("classes", ["abc", 3, [1, None, []], {"a": 1}])
def test_classes_that_are_not_a_list_of_names_are_refused(tmp_path: Path, classes: Any) -> None:
    state = zoo.build(ENTRY).state_dict()
    torch.save({"model": state, "classes": classes, "entry": ENTRY}, tmp_path / "w.pth")
    with_header(tmp_path / "w.safetensors", {"fcos_zoo": "1", "classes": json.dumps(classes)})
    for name in ("w.pth", "w.safetensors"):
        with pytest.raises(zoo.CheckpointError, match=rf'{name}: its "classes" are not a list of'):
            zoo.get(ENTRY, weights=tmp_path / name)


def test_classes_may_be_missing_in_a_header_but_not_malformed(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with_header(path, {"fcos_zoo": "1"})
    assert zoo.get(ENTRY, weights=path).classes == zoo.build(ENTRY).classes
    with_header(path, {"fcos_zoo": "1", "classes": "{"})
    with pytest.raises(zoo.CheckpointError, match='its "classes" are not a list of names'):
        zoo.get(ENTRY, weights=path)


def test_the_error_says_that_a_file_has_another_number_of_classes(tmp_path: Path) -> None:
    path, seven = tmp_path / "seven.pth", zoo.build(ENTRY, num_classes=7)
    torch.save(seven.state_dict(), path)
    remedy = f"it is one of 7 classes: zoo.build('{ENTRY}', num_classes=7), then zoo.load_checkpo"
    with pytest.raises(zoo.CheckpointError, match=re.escape(remedy)):
        zoo.get(ENTRY, weights=path)
    again = zoo.build(ENTRY, num_classes=7)
    zoo.load_checkpoint(again, path)
    assert torch.equal(again.head.cls_logits.bias, seven.head.cls_logits.bias)


def test_load_checkpoint_takes_the_files_that_get_takes(
    tmp_path: Path, trained: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy.safetensors"
    write_safetensors(trained, copy)
    monkeypatch.setattr("zoo.checkpoint.fetch", lambda filename, sources: copy)
    for source in (copy, "https://host.invalid/copy"):
        detector = zoo.build(ENTRY, num_classes=len(CLASSES))
        zoo.load_checkpoint(detector, source)
        assert detector.classes == tuple(CLASSES)
        assert detector.settings is not None
        assert detector.settings["classes"] == CLASSES
        for key, value in trained.state_dict().items():
            assert torch.equal(detector.state_dict()[key], value)
    release(trained.state_dict(), CLASSES, "FCOS_R_50_1x", tmp_path / "other.pth")
    with pytest.raises(zoo.CheckpointError, match=r"other\.pth holds a trained FCOS_R_50_1x"):
        zoo.load_checkpoint(zoo.build(ENTRY, num_classes=len(CLASSES)), tmp_path / "other.pth")


def test_a_detector_without_towers_loads_its_own_tensors() -> None:
    config = zoo.card(ENTRY).config
    config["head"]["shared_depth"] = 0
    ours, other = build_detector(config), build_detector(config)
    zoo.load_checkpoint(other, ours.state_dict())
    assert torch.equal(other.head.cls_logits.weight, ours.head.cls_logits.weight)


def test_a_file_named_as_another_entry_s_weights_is_refused(tmp_path: Path) -> None:
    state = zoo.build(ENTRY).state_dict()
    torch.save(state, tmp_path / "FCOS_R_50_1x.pth")
    with pytest.raises(zoo.CheckpointError, match="is the name of FCOS_R_50_1x's weights"):
        zoo.get(ENTRY, weights=tmp_path / "FCOS_R_50_1x.pth")
    torch.save(state, tmp_path / f"{ENTRY}.pth")
    assert zoo.get(ENTRY, weights=tmp_path / f"{ENTRY}.pth").card.name == ENTRY


def test_a_user_s_file_that_does_not_fit_stays_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "classifier.pth"
    torch.save({"fc.weight": torch.zeros(2)}, path)
    with pytest.raises(zoo.CheckpointError, match=r"is not FCOS_shapes_tiny: .*classification"):
        zoo.get(ENTRY, weights=path)
    assert path.exists()
    with pytest.raises(zoo.WeightsError, match="check the path"):
        zoo.get(ENTRY, weights=tmp_path / "absent.pth")
    with pytest.raises(zoo.WeightsError, match="no file is named: give the path"):
        zoo.get(ENTRY, weights="")


def test_a_trained_file_loads_by_its_path_with_its_settings(
    tmp_path: Path, trained: Detector
) -> None:
    path = tmp_path / "best.pth"
    config = zoo.card(ENTRY).config
    settings = {**config, "decoder": {**config["decoder"], "score_threshold": 0.25}}
    release(trained.state_dict(), trained.classes, ENTRY, path, settings)
    for detector in (zoo.get(str(path)), zoo.get(ENTRY, weights=path)):
        assert detector.classes == tuple(CLASSES)
        assert detector.decoder.score_threshold == 0.25
        assert detector.card.name == ENTRY
    again = zoo.build(ENTRY, num_classes=len(CLASSES))
    zoo.load_checkpoint(again, path)
    settings["head"]["box"] = "exp"
    release(trained.state_dict(), trained.classes, ENTRY, path, settings)
    with pytest.raises(zoo.CheckpointError, match=r"head\.box=exp, .* has relu: load it by zoo"):
        zoo.load_checkpoint(again, path)
    release(trained.state_dict(), trained.classes, "MINE", path, settings)
    assert zoo.get(str(path)).card.family == "shapes"


def test_a_file_that_does_not_name_its_entry_needs_a_name(
    tmp_path: Path, trained: Detector
) -> None:
    path = tmp_path / "best.pth"
    torch.save(trained.state_dict(), path)
    with pytest.raises(zoo.CheckpointError, match="does not state which entry it is"):
        zoo.get(str(path))


MINE = """
from torch import nn

class Mine(nn.Conv2d):
    channels, strides = (8, 8, 8), (8, 16, 32)

    def __init__(self, norm, norm_eps=1e-5, frozen_stages=0):
        super().__init__(3, 8, 8, 8)

    def forward(self, images):
        finest = super().forward(images)
        return [finest, finest[..., ::2, ::2], finest[..., ::4, ::4]]
"""


def test_a_file_may_name_a_backbone_of_a_registered_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, path = tmp_path / "my_zoo", tmp_path / "best.pth"
    folder.mkdir()
    (folder / "my_backbone.py").write_text(MINE)
    backbone = {"_target_": "my_backbone.Mine"}
    defaults = "[/entry/FCOS_shapes_tiny@_here_, override /backbone: mine, _self_]"
    (folder / "FCOS_mine.yaml").write_text(f"defaults: {defaults}\nweights: []\n")
    (folder / "backbone").mkdir()
    (folder / "backbone" / "mine.yaml").write_text(f"# @package _global_\nbackbone: {backbone}\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("FCOS_ZOO_CONFIGS", str(folder))
    built = zoo.build("FCOS_mine")
    release(built.state_dict(), built.classes, "FCOS_mine", path, zoo.card("FCOS_mine").config)
    loaded = zoo.get(str(path))
    assert torch.equal(loaded.backbone.weight, built.backbone.weight)
    monkeypatch.delenv("FCOS_ZOO_CONFIGS")
    with pytest.raises(zoo.CheckpointError, match=r"asks for 'my_backbone\.Mine'.*zoo\.register"):
        zoo.get(str(path))


def test_settings_in_a_file_can_only_name_known_classes(tmp_path: Path, trained: Detector) -> None:
    path, marker = tmp_path / "best.pth", tmp_path / "marker"
    settings = {
        **zoo.card(ENTRY).config,
        "backbone": {"_target_": "os.system", "command": f"touch {marker}"},
    }
    release(trained.state_dict(), trained.classes, ENTRY, path, settings)
    with pytest.raises(zoo.CheckpointError, match=r"asks for 'os\.system', which is not a module"):
        zoo.get(str(path))
    assert not marker.exists()


def as_adelaidet(key: str) -> str:
    """The key that AdelaiDet has for one of the original FCOS."""
    prefixes = {
        "backbone.body.": "backbone.bottom_up.",
        "backbone.fpn.fpn_inner": "backbone.fpn_lateral",
        "backbone.fpn.fpn_layer": "backbone.fpn_output",
        "backbone.fpn.top_blocks.": "backbone.top_block.",
        "rpn.head.centerness.": "proposal_generator.fcos_head.ctrness.",
        "rpn.head.": "proposal_generator.fcos_head.",
    }
    theirs, ours = next(pair for pair in prefixes.items() if key.startswith(pair[0]))
    rest = key.removeprefix(theirs)
    if "fpn_" in theirs:  # counted by stage there, by level here
        rest = f"{int(rest[0]) + 1}{rest[1:]}"
    return ours + rest


def test_a_file_of_another_system_is_refused_though_its_tensors_fit(
    cache: Path, tmp_path: Path, published: dict[str, Tensor]
) -> None:
    path = tmp_path / "w.pth"
    torch.save(published, path)
    assert zoo.get(SMALL, weights=path).card.name == SMALL
    other = {as_adelaidet(key): value for key, value in published.items()}
    zoo.load_checkpoint(zoo.build(SMALL), other)  # who loads a mapping knows what it is
    torch.save(other, path)
    with pytest.raises(zoo.CheckpointError, match=f"is not {SMALL}: it looks like .* of AdelaiDet"):
        zoo.get(SMALL, weights=path)


def test_a_temporary_failure_removes_nothing_from_the_cache(
    cache: Path, published: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.mkdir()
    torch.save(published, cache / f"{SMALL}.pth")

    def fail(*arguments: object, **options: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", fail)
        with pytest.raises(UnreadableError, match="cannot be read at present: MemoryError"):
            zoo.get(SMALL)
    assert (cache / f"{SMALL}.pth").is_file()
    assert zoo.get(SMALL).card.name == SMALL


def test_a_file_with_the_stated_hash_stays_though_it_cannot_be_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("a kind of file that is not known yet")

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(zoo.WeightsError, match=r"not known yet[^$]*is the published file, by its"):
        zoo.get(ENTRY)
    assert Path(zoo.card(ENTRY).weights[0].url).is_file()
