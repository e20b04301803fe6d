"""COCO AP of a detector on a dataset, of its images as they are or corrupted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks import analysis
from benchmarks.cases import Dataset
from benchmarks.dataset import Corruption, image_dataset, image_ids
from fcos import Augmentation, Detector, coco_eval
from fcos.coco_eval import Result
from fcos.data.annotations import category_names, load_annotations
from fcos.data.registry import check_is_minival
from fcos.evaluate import detect_dataset, match_categories
from zoo.exported import ExportedDetector

MINIVAL = ("val2017", "minival")


def detect(
    detector: Detector | ExportedDetector,
    dataset: Dataset,
    ids: Iterable[int],
    batch: int = 1,
    tta: Sequence[Augmentation] = (),
    workers: int = 0,
    corruption: Corruption | None = None,
) -> list[Result]:
    """Return all detections that the decoder keeps, in COCO's results format.

    With a `corruption`, its name and strength, the images are corrupted as they are read.

    Raises:
        ValueError: the dataset has none of the detector's classes.
    """
    predict = partial(detector.find, tta=tta)
    plus_one = detector.decoder.plus_one
    return detect_with(
        predict, detector.classes, dataset, ids, batch, plus_one, workers, corruption
    )


def detect_with(
    predict: Callable[[list[Tensor]], Sequence[dict[str, Tensor]]],
    classes: Sequence[str],
    dataset: Dataset,
    ids: Iterable[int],
    batch: int = 1,
    plus_one: bool = False,
    workers: int = 0,
    corruption: Corruption | None = None,
) -> list[Result]:
    """Do the same for any callable from images to boxes, with its class names by label."""
    images = image_dataset(dataset, ids, corruption)
    categories = match_categories(classes, images)
    return detect_dataset(predict, images, categories, batch, workers, plus_one=plus_one)


def figures(
    results: Sequence[Result],
    dataset: Dataset,
    ids: Sequence[int],
    evaluator: str = "pycocotools",
    max_detections: int = 100,
) -> dict[str, Any]:
    """Compute COCO's twelve metrics, the AP of each class, and `analysis.analyse`.

    `rem` has the twelve metrics by COCO-ReM's annotations, if these lie beside the dataset's. All
    are None if the dataset has only images, like COCO's test-dev, whose detections its server
    evaluates. `split` is "val2017" for its 5,000 images, else the dataset's name. Only pycocotools
    keeps the matches that the analysis needs.

    Raises:
        ValueError: the dataset is called val2017 or minival but is neither.
    """
    split = split_name(dataset, ids)
    annotations = load_annotations(dataset.annotations, labelled=False)
    matched = coco_eval.match_detections(results, annotations, ids, evaluator, max_detections)
    measured = coco_eval.figures(matched)
    if measured["AP"] is not None and evaluator == "pycocotools":
        measured |= analysis.analyse(matched)
        measured |= _refined(results, dataset, ids, max_detections)
    return {**measured, "split": split, "detections": len(results), "evaluator": evaluator}


def split_name(dataset: Dataset, ids: Sequence[int]) -> str:
    """Return the name of these images; "val2017" only if they are its 5,000.

    Raises:
        ValueError: the dataset is called val2017 or minival but is neither.
    """
    if any(name in f"{dataset.name} {Path(dataset.annotations).name}" for name in MINIVAL):
        check_is_minival(dataset.annotations)
        whole = len(image_ids(dataset)) == len(ids)
        return "val2017" if whole else f"{len(ids)} images of val2017"
    return dataset.name


def _refined(
    results: Sequence[Result], dataset: Dataset, ids: Sequence[int], max_detections: int
) -> dict[str, Any]:
    """Compute the metrics by COCO-ReM's annotations, if these have all images and classes."""
    if not dataset.refined:
        return {}
    refined, own = (
        load_annotations(file, labelled=False) for file in (dataset.refined, dataset.annotations)
    )
    known = {image["id"] for image in refined["images"]}
    if not known.issuperset(ids) or category_names(refined) != category_names(own):
        return {}
    measured = coco_eval.evaluate_detections(results, refined, ids, max_detections=max_detections)
    return {"rem": {name: measured[name] for name in coco_eval.FIGURES}}
