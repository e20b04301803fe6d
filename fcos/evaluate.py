"""Detection on a dataset and COCO's metrics, in one process or distributed over several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from fcos.coco_eval import COCO_LIMIT, Result, evaluate_detections, to_coco_results
from fcos.data.annotations import Annotations
from fcos.data.check import check_images
from fcos.data.dataset import DetectionDataset
from fcos.data.loader import Loader, ordered_batches
from fcos.detector import Detector
from fcos.image_io import ImageError
from fcos.text import printable
from fcos.train import distributed

Predict = Callable[[list[Tensor]], Sequence[Mapping[str, Tensor]]]


def evaluate_detector(
    detector: Detector,
    dataset: DetectionDataset,
    annotations: Annotations,
    batch: int = 1,
    workers: int = 2,
    max_detections: int | None = None,
) -> dict[str, Any]:
    """Detect on every image of a dataset and compute COCO's metrics.

    Args:
        detector: its classes are matched with the dataset's by name.
        dataset: all images of the annotations.
        annotations: COCO annotations to measure with.
        batch: images per forward pass; see `Detector.detect`.
        workers: processes that read images.
        max_detections: detections per image; None for the detector's limit and COCO's.

    Returns:
        The metrics of `fcos.coco_eval.evaluate_detections`, on every rank.

    Raises:
        ValueError: the dataset has none of the detector's classes.
    """
    category_ids = match_categories(detector.classes, dataset)
    decoder, training = detector.decoder, detector.training
    own = decoder.max_detections
    decoder.max_detections = max_detections or own
    detector.eval()
    try:
        results = detect_dataset(
            detector.find, dataset, category_ids, batch, workers, plus_one=decoder.plus_one
        )
    finally:
        detector.train(training)
        decoder.max_detections = own
    limit, figures = max_detections or COCO_LIMIT, None
    if distributed.rank() == 0:
        figures = evaluate_detections(results, annotations, max_detections=limit)
    return dict(distributed.broadcast(figures))


def match_categories(classes: Sequence[str], dataset: DetectionDataset) -> list[int | None]:
    """Return the dataset's category id of each class of a detector, by name, or None.

    If several classes have the same name, the first is matched with the dataset's first of that
    name, and so on.

    Raises:
        ValueError: the dataset has none of the classes.
    """
    ids = dict(zip(_numbered(dataset.classes), dataset.category_ids, strict=True))
    matched = [ids.get(name) for name in _numbered(classes)]
    if not any(category is not None for category in matched):
        raise ValueError(
            f"the dataset has none of the detector's classes ({_some(classes)}); it has "
            f"{_some(dataset.classes)}"
        )
    return matched


def unmatched(classes: Sequence[str], measured: Sequence[str], objects: Sequence[int]) -> list[str]:
    """Return a line for each class that no name matches, or a name that is not unique.

    Args:
        classes: classes of the detector.
        measured: classes of the dataset.
        objects: the number of objects of each of them; a class without objects has no AP.
    """
    lines = []
    similar = {_bare(name): name for name in classes}
    known = set(_numbered(classes))
    for (name, number), count in zip(_numbered(measured), objects, strict=True):
        if number and number == measured.count(name) - 1:
            lines.append(f"{number + 1} categories of the dataset are called {name!r}")
        if (name, number) in known or count == 0:
            continue
        line = f"the detector does not know the class {name!r} of the dataset: its AP will be 0"
        if similar.get(_bare(name), name) != name:
            line += f"; it knows {similar[_bare(name)]!r}, which differs in case or blanks"
        lines.append(line)
    return lines


def examine(classes: Sequence[str], test: DetectionDataset, limit: int | None = None) -> list[str]:
    """Read every image of a test set, and match its classes with the detector's.

    Args:
        classes: classes of the detector.
        test: the test set.
        limit: detections per image that count; None for COCO's limit.

    Returns:
        Warnings of classes and images that will not be measured as expected, a line each.

    Raises:
        ImageError: images cannot be read, or have another size than annotated.
        ValueError: it has none of the detector's classes.
    """
    match_categories(classes, test)
    faults = [finding for finding in check_images(test) if finding.refused]
    if faults:
        raise ImageError(f"{len(faults)} of {len(test)} images to evaluate on: {faults[0].detail}")
    objects = np.diff(test.ends, prepend=0)
    of_class = np.bincount(test.labels, minlength=len(test.classes))
    return [
        *unmatched(classes, test.classes, of_class.tolist()),
        *crowded(objects.tolist(), limit or COCO_LIMIT, "data.max_detections"),
    ]


def crowded(objects: Iterable[int], limit: int, option: str) -> list[str]:
    """Return a line if images have more objects than AP counts detections, else no line.

    Args:
        objects: the number of objects of each image.
        limit: detections per image that count.
        option: the option that sets the limit.
    """
    many = [number for number in objects if number > limit]
    if not many:
        return []
    return [
        f"{len(many)} images have more than {limit} objects, up to {max(many)}, but AP counts "
        f"{limit} detections of an image: {option}={max(many)} counts more"
    ]


def _numbered(names: Sequence[str]) -> list[tuple[str, int]]:
    """Return each name with the number of the same ones before it."""
    seen: Counter[str] = Counter()
    numbered = []
    for name in names:
        numbered.append((name, seen[name]))
        seen[name] += 1
    return numbered


def _bare(name: str) -> str:
    return "".join(name.split()).casefold()


def detect_dataset(
    predict: Predict,
    dataset: DetectionDataset,
    category_ids: Sequence[int | None],
    batch: int = 1,
    workers: int = 0,
    *,
    plus_one: bool = False,
) -> list[Result]:
    """Run a detector on every image, each process of a group on its share.

    Args:
        predict: a function of (3, H, W) uint8 images that returns {"boxes": (n, 4) xyxy pixels,
            "scores": (n,), "labels": (n,)} for each.
        dataset: the images.
        category_ids: the category id of each label, see `match_categories`; detections of labels
            with None are dropped.
        batch: images per call of `predict`.
        workers: processes that read images; 0 reads them in this one.
        plus_one: see `to_coco_results`.

    Returns:
        On rank 0, the detections of all processes in COCO's results format, in the order of the
        images; on other ranks, an empty list.
    """
    batches = ordered_batches(len(dataset), batch, distributed.rank(), distributed.world())
    loader = iter(Loader(dataset, batches, workers=workers))  # forks before the bar has a thread
    console = Console(stderr=True)
    shown = console.is_terminal and distributed.rank() == 0
    results: list[Result] = []
    for images, targets in track(
        loader, "Evaluating", len(batches), console=console, transient=True, disable=not shown
    ):
        with torch.inference_mode():
            detections = predict(images)
        for target, found in zip(targets, detections, strict=True):
            rows = to_coco_results(
                target["image_id"],
                found["boxes"],
                found["scores"],
                found["labels"],
                category_ids,
                plus_one,
            )
            results += [row for row in rows if row["category_id"] is not None]
    shares = distributed.gather(results)
    position = {image_id: index for index, image_id in enumerate(dataset.image_ids.tolist())}
    gathered = [result for share in shares for result in share]
    return sorted(gathered, key=lambda result: position[result["image_id"]])


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(printable, names[:5])) + (", …" if len(names) > 5 else "")
