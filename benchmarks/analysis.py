"""Analyse detections beyond AP: TIDE's errors, calibration, and intervals of AP.

Everything is computed from detections that pycocotools has matched, see
`fcos.coco_eval.match_detections`; nothing is detected or matched again.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask

from fcos.coco_eval import to_hotcoco

RESAMPLES = 400
CHUNK = 50  # resamples that are evaluated at once, to limit the memory
OCE_IOUS = (0.5, 0.75)
OCE_THRESHOLDS = tuple(n / 20 for n in range(20))
# hotcoco's names of TIDE's errors, and ours.
TIDE = {
    **{"Cls": "cls", "Loc": "loc", "Both": "both", "Dupe": "dup", "Bkg": "bkg", "Miss": "miss"},
    **{"FP": "fp", "FN": "fn"},
}


@dataclass(frozen=True)
class Matches:
    """The detections of one class, best first, and which of them COCO counts as right.

    Args:
        images: (N,) position of each detection's image in `evaluation.params.imgIds`.
        scores: (N,) the scores.
        right: (T, N) bool, whether each is a true positive at each of COCO's IoU thresholds.
        counted: (T, N) bool, False for detections of a crowd, which are neither right nor wrong.
        objects: (I,) number of objects in each image.
    """

    images: np.ndarray
    scores: np.ndarray
    right: np.ndarray
    counted: np.ndarray
    objects: np.ndarray


def analyse(evaluation: Any) -> dict[str, Any]:
    """Compute TIDE's errors, ECE, OCE and the bootstrap of AP, as results rows store them.

    Args:
        evaluation: pycocotools' COCOeval after `evaluate`, with at least one object.
    """
    matches = list(match_tables(evaluation))
    scores = np.concatenate([one.scores[one.counted[0]] for one in matches])
    right = np.concatenate([one.right[0][one.counted[0]] for one in matches])
    values: dict[str, Any] = {
        "ece": calibration_error(scores, right),
        **object_calibration_error(evaluation),
    }
    if importlib.util.find_spec("hotcoco") is not None:
        values["tide"] = tide(evaluation)
    return {**values, "bootstrap": bootstrap(matches, evaluation.params.recThrs)}


def tide(evaluation: Any) -> dict[str, float]:
    """Return how much AP50 would rise without each kind of error ("TIDE", Bolya et al., ECCV 2020).

    hotcoco computes it. `tidecv`, the authors' package, gives the same if every class has objects.
    It counts a class that only has detections as AP 0, and reads precision at recalls that are
    rounded differently than COCO's, so that its AP50 is not always COCO's.

    Returns:
        Numbers from 0 to 1: "cls" (wrong class), "loc" (bad localisation), "both", "dup"
        (duplicate), "bkg" (background), "miss", and all false positives "fp" and false negatives
        "fn".
    """
    fast = to_hotcoco(evaluation.cocoGt, evaluation.cocoDt)
    fast.params.imgIds = list(map(int, evaluation.params.imgIds))
    fast.params.maxDets = evaluation.params.maxDets
    fast.evaluate()
    fast.accumulate()
    rises = fast.tide_errors()["delta_ap"]
    return {ours: float(rises[theirs]) for theirs, ours in TIDE.items()}


def calibration_error(confidence: np.ndarray, quality: np.ndarray, bins: int = 10) -> float | None:
    """Return the expected calibration error: the mean gap of confidence and quality by bins.

    Naeini et al., AAAI 2015; of detections, Küppers et al., CVPR Workshops 2020 (D-ECE).

    Args:
        confidence: (n,) between 0 and 1.
        quality: (n,) the target of the confidence: 1 for a true positive and 0 for a false one, or
            IoU.
    """
    if len(confidence) == 0:
        return None
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    return float(np.abs(np.bincount(bin_of, confidence - quality)).sum() / len(confidence))


def object_calibration_error(evaluation: Any) -> dict[str, float]:
    """Return the object-level calibration error (Park et al., arXiv 2412.01782).

    This is the Brier score of the mean class scores of the detections that match an object, at IoU
    0.5 and 0.75, and 1 for an object without any. Unlike the error of detections, it cannot be
    lowered by leaving out detections. It depends on the score threshold: the least error over all
    thresholds counts, and its threshold is the best one to deploy.

    Returns:
        `oce`, and `oce_threshold`, the score threshold that gives it.
    """
    classes = {category: label for label, category in enumerate(evaluation.params.catIds)}
    errors = np.zeros(len(OCE_THRESHOLDS))
    count = 0
    for image in evaluation.params.imgIds:
        objects = [t for t in evaluation.cocoGt.imgToAnns[image] if not t["iscrowd"]]
        detections = evaluation.cocoDt.imgToAnns[image]
        if not objects:
            continue
        count += len(objects)
        truth = np.eye(len(classes))[[classes[one["category_id"]] for one in objects]]
        if not detections:
            errors += len(objects)
            continue
        scores = np.array([one["score"] for one in detections])
        labels = [classes[one["category_id"]] for one in detections]
        vectors = np.zeros((len(detections), len(classes)))
        vectors[np.arange(len(detections)), labels] = scores
        boxes = [[one["bbox"] for one in each] for each in (detections, objects)]
        ious = mask.iou(*map(np.array, boxes), [0] * len(objects)).T
        for near in (ious >= threshold for threshold in OCE_IOUS):
            for index, threshold in enumerate(OCE_THRESHOLDS):
                on_object = near & (scores >= threshold)
                mean = on_object @ vectors / np.maximum(on_object.sum(1), 1)[:, None]
                errors[index] += ((mean - truth) ** 2).sum() / len(OCE_IOUS)
    best = int(errors.argmin())
    return {"oce": float(errors[best] / count), "oce_threshold": OCE_THRESHOLDS[best]}


def match_tables(evaluation: Any) -> Iterator[Matches]:
    """Yield the matches of each class that has objects or detections, of objects of any size."""
    images = len(evaluation.params.imgIds)
    for first in range(0, len(evaluation.evalImgs), images * len(evaluation.params.areaRng)):
        rows = enumerate(evaluation.evalImgs[first : first + images])
        known = [(place, row) for place, row in rows if row is not None]
        if not known:
            continue
        objects = np.zeros(images, dtype=np.int64)
        for place, row in known:
            objects[place] = np.count_nonzero(~np.asarray(row["gtIgnore"], dtype=bool))
        counts = [len(row["dtScores"]) for _, row in known]
        where = np.repeat([place for place, _ in known], counts)
        scores = np.concatenate([row["dtScores"] for _, row in known])
        order = np.argsort(-scores, kind="stable")
        ignored = np.concatenate([row["dtIgnore"] for _, row in known], axis=1).astype(bool)
        matched = np.concatenate([row["dtMatches"] for _, row in known], axis=1) > 0
        right = (matched & ~ignored)[:, order]
        yield Matches(where[order], scores[order], right, ~ignored[:, order], objects)


def bootstrap(
    matches: list[Matches], recalls: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Compute AP on bootstrap samples of the images (Efron, 1979).

    Two models that were measured on the same images have the same samples, so that their
    differences are paired.

    Returns:
        `seed`, `low` and `high`, between which 95% of the APs lie, and all of them as `ap`. Samples
        without any object, which are the same for all models, are left out.
    """
    images = len(matches[0].objects)
    generator = random.Random(seed)  # the same in every version of Python and NumPy
    draws = (generator.choices(range(images), k=images) for _ in range(resamples))
    weights = np.array([np.bincount(draw, minlength=images) for draw in draws])
    aps = average_precision(matches, recalls, weights)
    aps = aps[~np.isnan(aps)]
    low, high = np.percentile(aps, [2.5, 97.5])
    rounded = [round(ap, 6) for ap in aps.tolist()]
    return {"seed": seed, "low": float(low), "high": float(high), "ap": rounded}


def average_precision(
    matches: list[Matches], recalls: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Compute COCO's AP of sets with image i `weights[:, i]` times, without matching again.

    The result equals the evaluation of such a set, unless detections of an image have equal scores.

    Args:
        matches: the matches of each class.
        recalls: the recalls at which precision is read, `evaluation.params.recThrs`.
        weights: (R, I) whole numbers.

    Returns:
        (R,) numbers from 0 to 1, NaN for sets without objects.
    """
    totals = np.zeros(len(weights))
    classes = np.zeros(len(weights))
    for one in matches:
        objects = weights @ one.objects
        classes += objects > 0
        for right, counted in zip(one.right, one.counted, strict=True):
            places = np.flatnonzero(right[counted])
            images = one.images[counted][: places[-1] + 1 if len(places) else 0]
            for start in range(0, len(weights) if len(places) else 0, CHUNK):
                part = slice(start, start + CHUNK)
                drawn = weights[part][:, images]
                found = drawn[:, places].cumsum(1)
                precision = found / np.maximum(drawn.cumsum(1)[:, places], 1)
                precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
                for row in np.flatnonzero(objects[part]):
                    recall = found[row] / objects[part][row]
                    index = np.searchsorted(recall, recalls, side="left")
                    totals[start + row] += precision[row, index[index < len(recall)]].sum()
    with np.errstate(invalid="ignore"):
        return totals / (classes * len(matches[0].right) * len(recalls))
