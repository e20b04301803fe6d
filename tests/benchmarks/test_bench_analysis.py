"""TIDE, calibration and the bootstrap are what the libraries and brute force give, and scores are
taken apart into the outputs of the head."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import zoo
from benchmarks import accuracy, analysis
from benchmarks.cases import Dataset
from benchmarks.dataset import embedded, image_ids
from benchmarks.studies import quality_branch
from fcos.coco_eval import evaluate_detections, match_detections


def noisy_detections(content: dict[str, Any], seed: int = 0) -> list[dict[str, Any]]:
    """The objects three times, moved, some of another's class, with scores that differ."""
    rng = np.random.default_rng(seed)
    things = content["annotations"]
    return [
        {
            "image_id": thing["image_id"],
            "category_id": things[int(rng.integers(len(things)))]["category_id"]
            if rng.uniform() < 0.1
            else thing["category_id"],
            "bbox": (np.array(thing["bbox"]) * rng.uniform(0.85, 1.15, 4)).tolist(),
            "score": float(rng.uniform()),
        }
        for thing in things * 3
    ]


@pytest.fixture(scope="module")
def photographs() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    content = json.loads(Path(embedded().annotations).read_bytes())
    assert any(thing["iscrowd"] for thing in content["annotations"])
    return content, noisy_detections(content)


@pytest.fixture(scope="module")
def detected(drawn: Dataset) -> tuple[Dataset, list[dict[str, Any]]]:
    """Drawn images and what the embedded model finds in them."""
    torch.set_num_threads(1)
    return drawn, accuracy.detect(zoo.get("FCOS_shapes_tiny"), drawn, image_ids(drawn), batch=8)


def test_the_figures_of_a_case_hold_the_analysis(detected: Any) -> None:
    dataset, results = detected
    figures = accuracy.figures(results, dataset, image_ids(dataset))
    assert figures["bootstrap"]["low"] < figures["AP"] < figures["bootstrap"]["high"]
    assert 0 < figures["ece"] < 1
    assert figures["tide"]["fp"] > 0
    reference = evaluate_detections(results, dataset.annotations)
    assert {key: figures[key] for key in reference} == reference  # pycocotools computes AP
    assert json.dumps(figures, allow_nan=False)


def test_drawing_every_image_once_gives_the_ap_of_pycocotools(
    photographs: Any, detected: Any
) -> None:
    for content, results in (photographs, (detected[0].annotations, detected[1])):
        evaluation = match_detections(results, content)
        weights = np.ones((1, len(evaluation.params.imgIds)), dtype=int)
        matches = list(analysis.match_tables(evaluation))
        (ap,) = analysis.average_precision(matches, evaluation.params.recThrs, weights)
        assert ap == pytest.approx(evaluate_detections(results, content)["AP"], abs=1e-12)


def test_a_draw_has_the_ap_of_the_dataset_with_its_images_repeated(photographs: Any) -> None:
    content, results = photographs
    evaluation = match_detections(results, content)
    ids = [int(image) for image in evaluation.params.imgIds]
    weights = np.stack([np.bincount(np.random.default_rng(n).integers(31, size=31), minlength=31)
                        for n in range(3)])  # fmt: skip
    matches = list(analysis.match_tables(evaluation))
    fast = analysis.average_precision(matches, evaluation.params.recThrs, weights)
    for times, ap in zip(weights, fast, strict=True):
        repeated: dict[str, Any] = {**content, "images": [], "annotations": []}
        found = []
        for old, count in zip(ids, times, strict=True):
            image = next(one for one in content["images"] if one["id"] == old)
            for number in range(count):
                new = {"image_id": old * 100 + number}
                repeated["images"].append({**image, "id": new["image_id"]})
                things = [t for t in content["annotations"] if t["image_id"] == old]
                repeated["annotations"] += [{**copy.copy(t), **new} for t in things]
                found += [{**r, **new} for r in results if r["image_id"] == old]
        assert ap == pytest.approx(evaluate_detections(found, repeated)["AP"], abs=1e-12)


def test_tide_is_that_of_its_authors(photographs: Any) -> None:
    pytest.importorskip("hotcoco")
    content = dict(photographs[0])
    content["annotations"] = [t for t in content["annotations"] if not t["iscrowd"]]
    errors = analysis.tide(match_detections(noisy_detections(content), content))
    # What tidecv 1.0.1 printed for these detections.
    authors = {"cls": 3.2729487195534546, "loc": 21.42140243648413, "both": 0.18118391098082043}
    authors |= {"dup": 2.0380799583487246, "bkg": 1.5488118496094287, "miss": 0.4891100289179775}
    authors |= {"fp": 12.115356637841288, "fn": 7.805345066401131}
    assert {key: 100 * value for key, value in errors.items()} == pytest.approx(authors, abs=1e-9)


def test_calibration_is_that_of_the_libraries(photographs: Any, detected: Any) -> None:
    hotcoco = pytest.importorskip("hotcoco")
    uq_detr = pytest.importorskip("uq_detr")
    dataset, results = detected
    evaluation = match_detections(results, dataset.annotations)
    values = analysis.analyse(evaluation)
    theirs = hotcoco.COCOeval(
        hotcoco.COCO(evaluation.cocoGt.dataset), hotcoco.COCO(evaluation.cocoDt.dataset), "bbox"
    )
    theirs.evaluate()
    assert values["ece"] == pytest.approx(theirs.calibration()["ece"], abs=1e-9)
    found, truth = [], []
    for image in evaluation.params.imgIds:
        rows = evaluation.cocoDt.imgToAnns[image]
        rows = [row for row in rows if row["score"] >= values["oce_threshold"]]
        scores = np.zeros((len(rows), 3))
        for row, line in zip(rows, scores, strict=True):
            line[row["category_id"] - 1] = row["score"]
        things = evaluation.cocoGt.imgToAnns[image]
        labels = np.array([thing["category_id"] - 1 for thing in things])
        found.append(uq_detr.Detections(boxes=corners(rows), scores=scores))
        truth.append(uq_detr.GroundTruth(boxes=corners(things), labels=labels))
    assert values["oce"] == pytest.approx(uq_detr.oce(found, truth).score, abs=1e-9)


def corners(rows: list[dict[str, Any]]) -> np.ndarray:
    boxes = np.array([row["bbox"] for row in rows], dtype=float).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def test_a_perfect_detector_is_calibrated_and_one_that_finds_nothing_is_not() -> None:
    content = json.loads(Path(embedded().annotations).read_bytes())
    content["annotations"] = [t for t in content["annotations"] if not t["iscrowd"]][:40]
    perfect = [{**thing, "score": 1.0} for thing in content["annotations"]]
    values = analysis.analyse(match_detections(perfect, content))
    assert values["ece"] == 0
    assert values["bootstrap"]["low"] == values["bootstrap"]["high"] == 1
    assert analysis.analyse(match_detections([], content))["oce"] == 1


@pytest.mark.parametrize(("seed", "same"), [(0, True), (1, False)])
def test_all_models_have_the_same_draws(photographs: Any, seed: int, same: bool) -> None:
    evaluation = match_detections(photographs[1], photographs[0])
    matches, recalls = list(analysis.match_tables(evaluation)), evaluation.params.recThrs
    first, again = (analysis.bootstrap(matches, recalls, 20, s)["ap"] for s in (0, seed))
    assert (first == again) is same


def test_without_the_extra_only_the_errors_are_left_out(
    photographs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, results = photographs
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    values = analysis.analyse(match_detections(results, content))
    assert values.keys() == {"ece", "oce", "oce_threshold", "bootstrap"}


def test_the_parts_of_a_score_make_the_score(drawn: Dataset) -> None:
    detector, ids = zoo.get("FCOS_shapes_tiny"), image_ids(drawn)
    results = quality_branch.detect(detector, drawn, ids)
    plain = accuracy.detect(detector, drawn, ids)
    assert [row["bbox"] for row in results["quality"]] == [row["bbox"] for row in plain]
    scores = {kind: torch.tensor([row["score"] for row in rows]) for kind, rows in results.items()}
    torch.testing.assert_close(
        scores["square root of it"], torch.tensor([row["score"] for row in plain])
    )
    torch.testing.assert_close(scores["class score"] * scores["quality"], scores["product"])
    assert not torch.equal(scores["class score"], scores["quality"])
    ap = evaluate_detections(plain, drawn.annotations)["AP"]
    rows = quality_branch.table(detector, drawn, ids)
    assert {row["score"]: row["AP"] for row in rows}["square root of it"] == f"{100 * ap:.1f}"


def test_a_model_without_a_quality_branch_has_no_such_table() -> None:
    detector = zoo.build("FCOS_R_50_noctr_2x").eval()
    detector.resize = zoo.build("FCOS_shapes_tiny").resize
    with pytest.raises(ValueError, match="no quality branch"):
        quality_branch.split_scores(detector, torch.zeros(3, 96, 96, dtype=torch.uint8))
