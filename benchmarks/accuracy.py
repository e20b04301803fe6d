"""COCO's figures of a detector on a dataset, and its detections, kept for another look."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.cases import Dataset
from benchmarks.dataset import image_ids, read_image
from fcos import Augmentation, Detector
from fcos.data.coco import load_annotations
from fcos.data.named import check_is_minival
from fcos.evaluate import Result, evaluate, to_coco_results

MINIVAL = ("val2017", "minival")
UNKNOWN = -1


def detect(
    detector: Detector,
    dataset: Dataset,
    ids: Iterable[int],
    batch: int = 1,
    tta: Sequence[Augmentation] = (),
) -> list[Result]:
    """Detections of the images in COCO's results format, every one that the decoder keeps.

    Raises:
        ValueError: the dataset has other classes than the detector.
    """
    find = partial(detector.find, tta=tta)
    plus_one = detector.decoder.plus_one
    return detect_with(find, detector.classes, dataset, ids, batch, plus_one=plus_one)


def detect_with(
    find: Callable[[Sequence[Tensor]], Sequence[dict[str, Tensor]]],
    classes: Sequence[str],
    dataset: Dataset,
    ids: Iterable[int],
    batch: int = 1,
    plus_one: bool = False,
) -> list[Result]:
    """The same of any callable from pictures to boxes, with its class names by label."""
    categories = category_ids(classes, dataset)
    results: list[Result] = []
    for chosen in _batched(ids, batch):
        with torch.inference_mode():
            found = find([read_image(dataset, image_id) for image_id in chosen])
        for image_id, one in zip(chosen, found, strict=True):
            boxes, scores, labels = (one[key] for key in ("boxes", "scores", "labels"))
            rows = to_coco_results(image_id, boxes, scores, labels, categories, plus_one=plus_one)
            results += [row for row in rows if row["category_id"] != UNKNOWN]
    return results


def _batched(ids: Iterable[int], size: int) -> Iterator[list[int]]:
    waiting = iter(ids)
    while chosen := list(islice(waiting, size)):
        yield chosen


def category_ids(classes: Sequence[str], dataset: Dataset) -> list[int]:
    """The annotation file's category id of each of the detector's classes, by name; `UNKNOWN`
    of one that the dataset does not have.

    Raises:
        ValueError: it has none of them.
    """
    categories = load_annotations(dataset.annotations, labelled=False)["categories"]
    by_name = {str(category.get("name", category["id"])): category["id"] for category in categories}
    found = [by_name.get(name, UNKNOWN) for name in classes]
    if set(found) == {UNKNOWN}:
        raise ValueError(
            f"{dataset.name} has none of the detector's classes, {classes[0]!r} and so on, but "
            f"{next(iter(by_name))!r} and so on"
        )
    return found


def figures(
    results: Sequence[Result],
    dataset: Dataset,
    ids: Sequence[int],
    evaluator: str = "pycocotools",
) -> dict[str, Any]:
    """The twelve figures and the AP of each class on these images.

    All are None where the dataset has images alone, as COCO's test-dev, whose detections are for
    its server to measure.

    `split` is "val2017" where these are its 5,000 images, else the dataset's name.

    Raises:
        ValueError: the dataset calls itself val2017 or minival and is neither.
    """
    split = dataset.name
    if any(name in f"{dataset.name} {Path(dataset.annotations).name}" for name in MINIVAL):
        check_is_minival(dataset.annotations)
        whole = len(image_ids(dataset)) == len(ids)
        split = "val2017" if whole else f"{len(ids)} images of val2017"
    annotations = load_annotations(dataset.annotations, labelled=False)
    measured = evaluate(list(results), annotations, ids, evaluator)
    return {**measured, "split": split, "detections": len(results), "evaluator": evaluator}
