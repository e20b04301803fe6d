"""The scores of detections are taken apart into what the head said."""

from __future__ import annotations

import pytest
import torch

import zoo
from benchmarks import accuracy
from benchmarks.cases import Dataset
from benchmarks.dataset import image_ids
from benchmarks.studies.quality_branch import detect, split_scores, table
from fcos.coco_eval import evaluate_detections


def test_the_parts_of_a_score_make_the_score(drawn: Dataset) -> None:
    detector = zoo.get("FCOS_shapes_tiny")
    ids = image_ids(drawn)
    results = detect(detector, drawn, ids)
    plain = accuracy.detect(detector, drawn, ids)
    assert [row["bbox"] for row in results["quality"]] == [row["bbox"] for row in plain]
    scores = {kind: torch.tensor([row["score"] for row in rows]) for kind, rows in results.items()}
    torch.testing.assert_close(
        scores["square root of it"], torch.tensor([row["score"] for row in plain])
    )
    torch.testing.assert_close(scores["class score"] * scores["quality"], scores["product"])
    assert not torch.equal(scores["class score"], scores["quality"])
    ap = evaluate_detections(plain, drawn.annotations)["AP"]
    aps = table(detector, drawn, ids).set_index("score")["AP"]
    assert aps["square root of it"] == f"{100 * ap:.1f}"


def test_a_model_without_a_quality_branch_has_no_such_table() -> None:
    detector = zoo.build("FCOS_R_50_noctr_2x").eval()
    detector.resize = zoo.build("FCOS_shapes_tiny").resize
    with pytest.raises(ValueError, match="no quality branch"):
        split_scores(detector, torch.zeros(3, 96, 96, dtype=torch.uint8))
