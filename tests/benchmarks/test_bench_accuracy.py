"""AP as a suite measures it: of the right classes and images, as they are or corrupted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmarks import accuracy
from benchmarks.cases import Case, Dataset, MissingError
from benchmarks.dataset import (
    CORRUPTIONS,
    STRENGTHS,
    corrupt,
    embedded,
    image_dataset,
    image_ids,
    safe_subset,
)
from benchmarks.measure import measure
from benchmarks.suite import Suite
from benchmarks.workload import resolve_weights
from fcos import coco_eval
from fcos.data import shapes


def cheat(dataset: Dataset, classes: tuple[str, ...]) -> Any:
    """A detector that knows the answers, image by image."""
    content = json.loads(Path(dataset.annotations).read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    answers = {image["id"]: [] for image in content["images"]}
    for thing in content["annotations"]:
        x, y, w, h = thing["bbox"]
        label = classes.index(names[thing["category_id"]])
        answers[thing["image_id"]].append((label, [x, y, x + w, y + h]))
    waiting = iter(image_ids(dataset))

    def detect(_: Tensor) -> dict[str, Tensor]:
        found = answers[next(waiting)]
        return {
            "boxes": torch.tensor([box for _, box in found], dtype=torch.float32).reshape(-1, 4),
            "labels": torch.tensor([label for label, _ in found], dtype=torch.int64),
            "scores": torch.full((len(found),), 0.9),
        }

    return lambda images: list(map(detect, images))


def test_classes_are_matched_by_name_and_unknown_ones_left_out(drawn: Dataset) -> None:
    classes = ("triangle", "unicorn", "circle", "square")
    ids = image_ids(drawn)
    results = accuracy.detect_with(cheat(drawn, classes), classes, drawn, ids, batch=4)
    figures = accuracy.figures(results, drawn, ids)
    assert figures["AP"] == pytest.approx(1.0)
    assert figures["images"] == 24
    assert figures["split"] == drawn.name


def test_a_dataset_of_other_classes_is_refused(drawn: Dataset) -> None:
    classes = ("person", "dog")
    with pytest.raises(ValueError, match=r"none of the detector's classes \(person, dog\)"):
        accuracy.detect_with(cheat(drawn, shapes.CLASSES), classes, drawn, [1])


def test_images_without_annotations_give_detections_to_submit(
    drawn: Dataset, tmp_path: Path
) -> None:
    content = json.loads(Path(drawn.annotations).read_text())
    del content["annotations"]
    listed = tmp_path / "image_info_test-dev2017.json"
    listed.write_text(json.dumps(content))
    dataset = Dataset.of(listed, drawn.images)
    ids = image_ids(dataset)
    results = accuracy.detect_with(cheat(drawn, shapes.CLASSES), shapes.CLASSES, dataset, ids)
    figures = accuracy.figures(results, dataset, ids)
    assert figures["AP"] is None
    assert figures["detections"] == len(results) > 0


def test_a_set_named_val2017_must_have_its_annotations(drawn: Dataset, tmp_path: Path) -> None:
    false = tmp_path / "instances_val2017.json"
    false.write_bytes(Path(drawn.annotations).read_bytes())
    dataset = Dataset.of(false, drawn.images)
    with pytest.raises(ValueError, match="5,000 images; this has 24"):
        accuracy.figures([], dataset, image_ids(dataset))


def test_all_embedded_images_may_be_redistributed(tmp_path: Path) -> None:
    safe = safe_subset(embedded(), tmp_path)
    assert safe.name == "coco_safe"
    assert image_ids(safe) == image_ids(embedded())
    assert safe_subset(embedded(), tmp_path) == safe
    suite = Suite(
        ["FCOS_R_50_1x"], metrics=["latency"], subset="safe", folder=tmp_path, cached_only=True
    )
    (case,) = suite.cases()
    assert case.identity["dataset"] == f"coco_safe@{safe.digest}"


def test_refined_annotations_beside_the_dataset_give_a_second_ap(
    drawn: Dataset, tmp_path: Path
) -> None:
    content = json.loads(Path(drawn.annotations).read_text())
    (tmp_path / "shapes.json").write_text(json.dumps(content))
    results = [{**thing, "score": 0.9} for thing in content["annotations"]]
    del content["annotations"][:8]  # as if these were no objects
    refined = tmp_path / "instances_valrem.json"
    refined.write_text(json.dumps(content))
    dataset = Dataset.of(tmp_path / "shapes.json", drawn.images)
    ids = image_ids(dataset)
    figures = accuracy.figures(results, dataset, ids)
    assert figures["AP"] == 1 > figures["rem"]["AP"]
    assert figures["rem"]["AP"] == coco_eval.evaluate_detections(results, content)["AP"]
    refined.write_text(json.dumps({**content, "images": content["images"][1:]}))
    assert "rem" not in accuracy.figures(results, dataset, ids)  # of other images


def test_a_missing_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such annotation file"):
        Dataset.of(tmp_path / "none.json", tmp_path)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_is_the_same_each_time_and_grows_with_strength(name: str) -> None:
    dataset = embedded()
    ids = image_ids(dataset)[:2]
    clean = image_dataset(dataset, ids)[0][0]
    images = [image_dataset(dataset, ids, (name, strength))[0][0] for strength in STRENGTHS]
    again = image_dataset(dataset, ids[:1], (name, 2))[0][0]
    assert torch.equal(images[1], again)
    assert all(image.shape == clean.shape and image.dtype == torch.uint8 for image in images)
    changes = [float((clean.float() - image.float()).abs().mean()) for image in images]
    assert 0 < changes[0] < changes[1] < changes[2]


def test_corruptions_have_their_stated_size() -> None:
    gray = Image.new("RGB", (64, 64), (128, 128, 128))
    noisy = np.asarray(corrupt(gray, "noise", 1, 7), dtype=float)
    assert noisy.std() == pytest.approx(0.08 * 255, rel=0.05)
    other = np.asarray(corrupt(gray, "noise", 1, 8))
    assert not np.array_equal(noisy, other)  # of another image
    halves = Image.fromarray(np.repeat([[[0] * 3, [200] * 3]], 4, axis=0).astype(np.uint8))
    flat = np.asarray(corrupt(halves, "contrast", 2, 7))
    assert set(flat.flatten().tolist()) == {80, 120}


def test_robustness_is_the_ap_of_each_corruption(drawn: Dataset) -> None:
    weights = resolve_weights("FCOS_shapes_tiny", {}, None, cached_only=True)
    case = Case("FCOS_shapes_tiny", "robustness", dataset=drawn, threads=1, weights=weights)
    values = measure(case)
    every = [ap for aps in values["corrupted"].values() for ap in aps]
    assert list(values["corrupted"]) == list(CORRUPTIONS)
    assert len(every) == 12
    assert values["mean"] == pytest.approx(sum(every) / 12)
    assert values["mean"] < values["clean"]
    assert values["relative"] == pytest.approx(values["mean"] / values["clean"])
    with pytest.raises(MissingError, match="no weights given"):
        measure(Case("FCOS_shapes_tiny", "robustness", dataset=drawn, threads=1))
