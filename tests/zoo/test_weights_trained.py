"""`zoo.get(name, weights=...)`: files that training here wrote, and published ones from disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import zoo
from fcos import Detector
from fcos.train.checkpoint import release
from zoo import converted
from zoo.build import assemble

ENTRY = "FCOS_shapes_tiny"
CLASSES = ["cat", "dog", "hat", "mat", "rat"]


@pytest.fixture
def trained() -> Detector:
    """A detector of classes of its own."""
    torch.manual_seed(0)
    card = zoo.card(ENTRY)
    detector = assemble({**card.config, "classes": CLASSES})
    detector.card = card
    return detector


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_a_trained_file_brings_its_classes(tmp_path: Path, trained: Detector, kind: str) -> None:
    path = tmp_path / f"released.{kind}"
    if kind == "pth":
        release(trained.state_dict(), trained.classes, ENTRY, path)
    else:
        converted.write(trained, path, converted.describe(trained))
    detector = zoo.get(ENTRY, weights=path)
    assert detector.classes == tuple(CLASSES)
    image = torch.rand(3, 64, 64)
    for ours, theirs in zip(detector.levels([image]), trained.eval().levels([image]), strict=True):
        torch.testing.assert_close(ours.logits, theirs.logits)


def test_a_file_without_classes_has_the_entry_s(tmp_path: Path) -> None:
    built = zoo.build(ENTRY)
    torch.save(built.state_dict(), tmp_path / "mine.pth")
    detector = zoo.get(ENTRY, weights=tmp_path / "mine.pth")
    assert detector.classes == built.classes
    for key, value in built.state_dict().items():
        assert torch.equal(detector.state_dict()[key], value)


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


def test_a_user_s_file_that_does_not_fit_stays_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "classifier.pth"
    torch.save({"fc.weight": torch.zeros(2)}, path)
    with pytest.raises(zoo.CheckpointError, match=r"is not FCOS_shapes_tiny: .*classification"):
        zoo.get(ENTRY, weights=path)
    assert path.exists()
    with pytest.raises(zoo.WeightsError, match="check the path"):
        zoo.get(ENTRY, weights=tmp_path / "absent.pth")
