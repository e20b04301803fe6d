"""COCO's figures of a detector on a dataset, and its detections, kept for another look."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import pictures
from benchmarks.cell import Dataset
from fcos import Detector
from fcos.data.coco import load_annotations
from fcos.data.named import check_is_minival
from fcos.evaluate import Result, evaluate, to_coco_results

MINIVAL = ("val2017", "minival")


def detect(
    detector: Detector, dataset: Dataset, ids: Iterable[int], batch: int = 1
) -> list[Result]:
    """Detections of the images in COCO's results format, every one that the decoder keeps.

    Classes are matched by name; where the numbers of classes agree, by their order.

    Raises:
        ValueError: the dataset has other classes than the detector.
    """
    categories = category_ids(detector.classes, dataset)
    results: list[Result] = []
    chosen = list(ids)
    for start in range(0, len(chosen), batch):
        group = pictures.read_all(dataset, chosen[start : start + batch])
        with torch.inference_mode():
            found = detector.detect([picture.image for picture in group], batch_size=batch)
        for picture, detections in zip(group, found, strict=True):
            results += to_coco_results(
                picture.image_id,
                detections.boxes,
                detections.scores,
                detections.labels,
                categories,
                plus_one=detector.decoder.plus_one,
            )
    return results


def category_ids(classes: Sequence[str], dataset: Dataset) -> list[int]:
    """The annotation file's category id of each of the detector's classes."""
    categories = load_annotations(dataset.annotations)["categories"]
    by_name = {str(category.get("name", category["id"])): category["id"] for category in categories}
    if set(classes) <= set(by_name):
        return [by_name[name] for name in classes]
    missing = [name for name in classes if name not in by_name]
    raise ValueError(
        f"{dataset.name} has other classes than the detector: no {missing[0]!r} among its "
        f"{len(by_name)}"
    )


def figures(results: Sequence[Result], dataset: Dataset, ids: Sequence[int]) -> dict[str, Any]:
    """The twelve figures and the AP of each class on these images, by pycocotools.

    `split` is "val2017" where these are its 5,000 images, else the dataset's name.

    Raises:
        ValueError: the dataset calls itself val2017 or minival and is neither.
    """
    split = dataset.name
    if any(name in f"{dataset.name} {Path(dataset.annotations).name}" for name in MINIVAL):
        check_is_minival(dataset.annotations)
        whole = len(pictures.image_ids(dataset)) == len(ids)
        split = "val2017" if whole else f"{len(ids)} images of val2017"
    measured = evaluate(list(results), dataset.annotations, ids)
    return {**measured, "split": split, "detections": len(results)}
