"""What centre-ness or IoU quality adds: `python -m benchmarks.studies.quality_branch NAMES`.

Writes `reports/quality_branch.md`: for each entry, the same detections with each part of their
score in turn as the score. By default that of the embedded weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask
from torch import Tensor

import zoo
from benchmarks import analysis
from benchmarks.accuracy import image_dataset
from benchmarks.cases import Dataset
from benchmarks.dataset import default_dataset, image_ids
from fcos import Detector
from fcos.coco_eval import Result, figures, match_detections
from fcos.evaluate import detect_dataset, match_categories

REPORT = Path("reports/quality_branch.md")
TEXT = """\
# Class score and quality

Written by `python -m benchmarks.studies.quality_branch`. The detections of a model, after NMS, with
each part of their score in turn as the score:

- AP: of these boxes ranked by it.
- ECE: its gap to the share of right boxes (IoU 0.5), in ten bins, in percent.
- gap to IoU: the same, with the box's IoU with the nearest object of its class as what to predict.
- rank correlation: Spearman's, with that IoU, over boxes with an IoU of at least 0.1.
- OCE: object-level calibration error (0 to 2), and the score threshold at which it is least.
"""
Parts = dict[str, Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", default=["FCOS_shapes_tiny"])
    parser.add_argument("--dataset", nargs=2, metavar=("ANNOTATIONS", "IMAGES"))
    parser.add_argument("--limit", type=int)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    parts = [TEXT]
    for name in arguments.names:
        detector = zoo.get(name).fuse()
        given = Dataset.of(*arguments.dataset) if arguments.dataset else None
        dataset = given or default_dataset(detector.card, Path("outputs/data"))
        ids = image_ids(dataset, arguments.limit)
        parts += [
            f"## {name}\n",
            f"Its quality is {detector.card.config['loss']['quality']}; {len(ids):,} images of "
            f"{dataset.name}.\n",
            table(detector, dataset, ids),
        ]
    REPORT.write_text("\n".join(parts))


def table(detector: Detector, dataset: Dataset, ids: Sequence[int]) -> str:
    """The table of one model in Markdown."""
    lines = [
        "| score | AP | ECE | gap to IoU | rank correlation | OCE | at threshold |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for kind, results in detect(detector, dataset, ids).items():
        evaluation = match_detections(results, dataset.annotations, ids)
        values = analysis.analyse(evaluation)
        scores, ious = overlaps(evaluation)
        gap = analysis.calibration_error(scores, ious)
        near = ious >= 0.1
        ranks = [values[near].argsort().argsort() for values in (scores, ious)]
        matrix: Any = np.corrcoef(np.stack(ranks))
        lines.append(
            f"| {kind} | {100 * figures(evaluation)['AP']:.1f} | {100 * values['ece']:.1f} | "
            f"{100 * (gap or 0):.1f} | {matrix[0, 1]:.2f} | {values['oce']:.2f} | "
            f"{values['oce_threshold']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def detect(detector: Detector, dataset: Dataset, ids: Sequence[int]) -> dict[str, list[Result]]:
    """The detections of the images, scored by each part of their score."""
    images = image_dataset(dataset, ids)
    categories = match_categories(detector.classes, images)
    found: list[Parts] = []

    def predict(batch: list[Tensor]) -> list[Parts]:
        found.append(split_scores(detector, batch[0]))
        return [found[-1]]

    rows = detect_dataset(predict, images, categories, plus_one=detector.decoder.plus_one)
    kept = [
        torch.tensor([categories[label] is not None for label in one["labels"]], dtype=torch.bool)
        for one in found
    ]
    columns = {
        kind: torch.cat([one[kind][keep] for one, keep in zip(found, kept, strict=True)]).tolist()
        for kind in ("class score", "quality", "product", "square root of it")
    }
    return {
        kind: [{**row, "score": score} for row, score in zip(rows, scores, strict=True)]
        for kind, scores in columns.items()
    }


@torch.inference_mode()
def split_scores(detector: Detector, image: Tensor) -> Parts:
    """The detections of an image with the parts of their scores.

    The head's output that a detection came from is the one of its class with the same score.
    """
    prepared = detector.prepare([image])
    levels = detector.network(prepared[0])
    (found,) = detector.decode(levels, *prepared)
    if any(level.quality is None for level in levels) or detector.decoder.score == "class":
        raise ValueError("this model has no quality branch, or its scores do not depend on it")
    logits = torch.cat([level.logits.flatten(2)[0] for level in levels], dim=1)  # (C, L)
    quality = torch.cat([level.quality.flatten() for level in levels if level.quality is not None])
    classes, quality = logits.float().sigmoid(), quality.float().sigmoid()
    product = classes * quality
    score = product.sqrt() if detector.decoder.score == "sqrt" else product
    place = (score[found["labels"]] - found["scores"][:, None]).abs().argmin(dim=1)
    parts = {
        "class score": classes[found["labels"], place],
        "quality": quality[place],
        "product": product[found["labels"], place],
        "square root of it": product[found["labels"], place].sqrt(),
    }
    return {**found, **parts}


def overlaps(evaluation: Any) -> tuple[np.ndarray, np.ndarray]:
    """The score of each detection, and its IoU with the nearest object of its class, else 0."""
    scores, ious = [], []
    for image in evaluation.params.imgIds:
        things = evaluation.cocoGt.imgToAnns[image]
        for row in evaluation.cocoDt.imgToAnns[image]:
            boxes = [t["bbox"] for t in things if t["category_id"] == row["category_id"]]
            scores.append(row["score"])
            crowds = [0] * len(boxes)
            ious.append(
                mask.iou(np.array([row["bbox"]]), np.array(boxes), crowds).max() if boxes else 0.0
            )
    return np.array(scores), np.array(ious)


if __name__ == "__main__":
    main()
