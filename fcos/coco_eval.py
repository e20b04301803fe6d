"""COCO's metrics of detections: AP and AR over all classes, and the AP of each class."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from fcos.data.annotations import Annotations, category_names, load_annotations, valid_objects

Result = dict[str, Any]
COCO_LIMIT = 100  # detections per image that COCO's AP counts
BACKENDS = ("pycocotools", "hotcoco")

# In the order of COCOeval.stats.
FIGURES = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl"),
    *("AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
)


def percent(figure: float | None) -> str:
    """Return a figure as tables print it: in per cent, or "-" where there is none."""
    return "-" if figure is None else f"{100 * figure:.1f}"


def to_coco_results(
    image_id: int | str,
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    category_ids: Sequence[int | None],
    plus_one: bool = False,
) -> list[Result]:
    """Return the detections of one image in COCO's results format, not rounded.

    Args:
        image_id: the image's id in the annotation file, or its file name where there is none.
        boxes, scores, labels: (n, 4) xyxy pixels of the original image, (n,), (n,) from 0.
        category_ids: the annotation file's category id of each label.
        plus_one: boxes end on their last pixel, so that widths and heights are x2 - x1 + 1, the
            older convention of maskrcnn-benchmark and of its published figures.
    """
    extra = 1.0 if plus_one else 0.0
    return [
        {
            "image_id": image_id,
            "category_id": category_ids[label],
            "bbox": [x1, y1, x2 - x1 + extra, y2 - y1 + extra],
            "score": score,
        }
        for (x1, y1, x2, y2), score, label in zip(
            boxes.double().tolist(), scores.double().tolist(), labels.tolist(), strict=True
        )
    ]


def evaluate_detections(
    detections: str | Path | Sequence[Result],
    annotations: Annotations,
    image_ids: Iterable[int] | None = None,
    backend: str = "pycocotools",
    max_detections: int = COCO_LIMIT,
) -> dict[str, Any]:
    """Compute COCO's metrics with pycocotools, or with an equal and faster package.

    Args:
        detections: results in COCO's format (see `to_coco_results`), or a JSON file of them; may
            be empty.
        annotations: a COCO annotation file, or its content. Objects that
            `fcos.data.annotations.valid_objects` leaves out are not measured.
        image_ids: measure on these images only, as if the dataset had no others.
        backend: "pycocotools", or "hotcoco" where it is installed, whose metrics are the same to
            1e-12 (`tests/benchmarks/test_bench_evaluators.py`).
        max_detections: how many detections count per image and class, best first. Another number
            than COCO's 100 also applies to "AR100", and a smaller one to "AR10" and "AR1".

    Returns:
        AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl between 0 and 1, None where
        there is no object of that kind; `per_class`, the AP of each class by name, None for
        classes without objects; and `images`, the number of images measured.

    Raises:
        ValueError: a detection is of an image or category that the annotations do not have, is
            malformed, not finite, or of negative size.
        ImportError: the backend is not installed.
    """
    return figures(match_detections(detections, annotations, image_ids, backend, max_detections))


def match_detections(
    detections: str | Path | Sequence[Result],
    annotations: Annotations,
    image_ids: Iterable[int] | None = None,
    backend: str = "pycocotools",
    max_detections: int = 100,
) -> Any:
    """Match detections with objects: the evaluated and accumulated COCOeval of the backend.

    Arguments and errors are those of `evaluate_detections`.
    """
    if backend not in BACKENDS:
        raise ValueError(f"there is no backend {backend!r}; choose one of {', '.join(BACKENDS)}")
    if backend == "hotcoco" and importlib.util.find_spec("hotcoco") is None:
        raise ImportError("hotcoco is not installed: pip install 'fcos-zoo[analysis]'")
    truth = _truth(load_annotations(annotations))
    chosen = sorted(truth.imgs) if image_ids is None else sorted(set(image_ids))
    if not chosen:
        raise ValueError("no image to evaluate on")
    if unknown := sorted(set(chosen) - set(truth.imgs)):
        raise ValueError(
            f"the annotations do not have image {unknown[0]}, nor {len(unknown) - 1} others"
        )
    results = _results(detections, truth)
    evaluation = COCOeval(truth, results, "bbox")
    if backend == "hotcoco":
        evaluation = to_hotcoco(truth, results)
    evaluation.params.imgIds = chosen
    # COCOeval sorts the limits and takes the largest one for AP, so none may exceed the limit.
    evaluation.params.maxDets = [min(limit, max_detections) for limit in (1, 10, max_detections)]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def figures(evaluation: Any) -> dict[str, Any]:
    """Return COCO's metrics of matched detections, see `evaluate_detections`."""
    stats = map(_figure, _stats(evaluation.eval))
    measured: dict[str, Any] = dict(zip(FIGURES, stats, strict=True))
    # precision: (IoU threshold, recall, class, area range, detections an image), -1 where undefined
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    names = {category: row["name"] for category, row in evaluation.cocoGt.cats.items()}
    measured["per_class"] = {
        _unique(names, category): _figure(precision[:, :, position].mean())
        for position, category in enumerate(evaluation.params.catIds)
    }
    measured["images"] = len(evaluation.params.imgIds)
    return measured


def _stats(accumulated: Mapping[str, Any]) -> list[float]:
    """Return the twelve metrics for any limit of detections; COCOeval.summarize knows only 100."""
    # precision: (IoU threshold, recall, class, area range, limit); recall: without its second axis
    precision, recall = accumulated["precision"], accumulated["recall"]
    chosen = [
        *(precision[:, :, :, 0, -1], precision[0, :, :, 0, -1], precision[5, :, :, 0, -1]),
        *(precision[:, :, :, area, -1] for area in (1, 2, 3)),
        *(recall[:, :, 0, limit] for limit in (0, 1, 2)),
        *(recall[:, :, area, -1] for area in (1, 2, 3)),
    ]
    return [float(part[part > -1].mean()) if (part > -1).any() else -1.0 for part in chosen]


def to_hotcoco(truth: COCO, results: COCO) -> Any:
    """Return a hotcoco.COCOeval of the objects and detections of pycocotools."""
    import hotcoco

    objects, detections = hotcoco.COCO(truth.dataset), hotcoco.COCO(results.dataset)
    return hotcoco.COCOeval(objects, detections, "bbox")


def _unique(names: Mapping[int, str], category: int) -> str:
    """Return the category's name, with its id where another has the same name."""
    name = names[category]
    same = sum(other == name for other in names.values())
    return name if same == 1 else f"{name} (category {category})"


def _figure(value: float) -> float | None:
    return None if value < 0 or math.isnan(value) else float(value)


def _index(content: Mapping[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = dict(content)
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def _truth(content: Mapping[str, Any]) -> COCO:
    """Convert ground truth as COCOeval needs it.

    Annotations are numbered from 1: COCOeval takes an object of id 0 for one that was not
    detected, and cannot tell two of the same id apart.
    """
    names = category_names(content)
    categories = [{"id": key, "name": name} for key, name in names.items()]
    objects = [{**thing, "id": number} for number, thing in enumerate(valid_objects(content), 1)]
    return _index({"images": content["images"], "categories": categories, "annotations": objects})


def _check_result(detection: Any) -> None:
    try:
        hash((detection["image_id"], detection["category_id"]))
        numbers = (*detection["bbox"], detection["score"])
        fine = len(numbers) == 5 and all(isinstance(number, Real) for number in numbers)
    except (KeyError, TypeError):
        fine = False
    if not fine:
        wanted = "image_id, category_id, bbox (x, y, width, height) and score"
        raise ValueError(f"a detection must have {wanted}: {str(detection)[:200]}")


def _results(detections: str | Path | Sequence[Result], truth: COCO) -> COCO:
    loaded: Sequence[Result] = (
        json.loads(Path(detections).read_bytes())
        if isinstance(detections, (str, Path))
        else detections
    )
    rows = []
    for number, detection in enumerate(loaded, 1):
        _check_result(detection)
        image_id, category_id = detection["image_id"], detection["category_id"]
        if image_id not in truth.imgs:
            raise ValueError(f"a detection on image {image_id}, which the annotations do not have")
        if category_id not in truth.cats:
            raise ValueError(
                f"a detection of category {category_id} on image {image_id}; the annotations have "
                f"{len(truth.cats)} categories, from {min(truth.cats)} to {max(truth.cats)}"
            )
        width, height = detection["bbox"][2:]
        if not all(map(math.isfinite, (*detection["bbox"], detection["score"]))):
            raise ValueError(f"a detection on image {image_id} is not finite: {detection}")
        if width < 0 or height < 0:
            raise ValueError(f"a detection on image {image_id} has a negative side: {detection}")
        rows.append({**detection, "id": number, "area": width * height, "iscrowd": 0})
    return _index({**truth.dataset, "annotations": rows})
