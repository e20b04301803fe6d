"""Entries give the numbers that the original systems' code computed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from zoo import golden
from zoo.golden import Check, Fixture

REPOSITORY = Path(__file__).resolve().parents[2]
FIXTURES = {fixture.entry: fixture for fixture in golden.find(REPOSITORY / "tests" / "golden")}
IMAGES = REPOSITORY / "benchmarks" / "data" / "coco_val_ccby" / "images"
SMALL = "FCOS_syncbn_bs32_c128_MNV2_FPN_1x"
DETECTIONS = {"boxes": "boxes", "scores": "scores", "labels": "classes"}
GENERATED = {"logits", "ltrb", "quality", "detections", "losses", "gradients"}


def verify(fixture: Fixture) -> dict[str, Check]:
    """Every check by name; that of the real image where it may be redistributed."""
    here = (IMAGES / fixture.spec["real"]["image"]).exists()
    return {check.what: check for check in golden.verify(fixture, IMAGES if here else None)}


@pytest.mark.parametrize("entry", FIXTURES)
def test_an_entry_reproduces_the_original_code(entry: str) -> None:
    checks = verify(FIXTURES[entry])
    assert set(checks) == GENERATED | (set() if entry == SMALL else {"real image"})
    for check in checks.values():
        assert check.passed, f"{check.what}: {check.detail}"


@pytest.fixture
def small() -> Fixture:
    """A copy that a test may change."""
    return Fixture(FIXTURES[SMALL].path)


def test_every_wrong_number_fails(small: Fixture) -> None:
    small.arrays["logits_1"][3, 4, 5] += 0.02
    small.arrays["ltrb_0"][2, 20, 10] += 2.0
    small.arrays["quality_4"][1, 1] += 0.02
    small.arrays["boxes"][:5] += 3.0
    small.spec["losses"]["values"]["loss_reg"] *= 1.01
    small.spec["losses"]["grad_norms"]["rpn.head.bbox_pred.weight"] *= 1.01
    failed = {what for what, check in verify(small).items() if not check.passed}
    assert failed == GENERATED


def test_a_wrong_tensor_of_the_checkpoint_fails(small: Fixture) -> None:
    (lateral,) = (t for t in small.spec["tensors"] if t["key"] == "backbone.fpn.fpn_inner3.weight")
    lateral["scale"] *= 1.01
    assert not verify(small)["logits"].passed


@pytest.mark.parametrize("kind", ["labels", "scores"])
def test_detections_match_by_class_and_score_too(small: Fixture, kind: str) -> None:
    same = {key: small.arrays[name] for key, name in DETECTIONS.items()}
    assert golden._check_detections("same", same, small.arrays, "").excess == 0
    other = {**same, kind: same[kind] + (torch.arange(len(same[kind])) < 10)}
    assert not golden._check_detections("other", other, small.arrays, "").passed
    nothing = {key: value[:0] for key, value in same.items()}
    assert not golden._check_detections("nothing", nothing, small.arrays, "").passed


def test_a_missing_photograph_is_named(small: Fixture, tmp_path: Path) -> None:
    *others, real = golden.verify(small, tmp_path)
    assert {check.what for check in others if check.passed} == GENERATED
    assert not real.passed
    assert f"no photograph, {tmp_path / small.spec['real']['image']} is missing" in real.detail


def test_a_folder_without_fixtures_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no fixtures"):
        golden.find(tmp_path)
