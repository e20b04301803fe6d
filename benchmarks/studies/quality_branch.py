"""The gain by centre-ness or IoU quality: `python -m benchmarks.studies.quality_branch NAMES`.

Writes `reports/quality_branch.md`. For each entry, by default the one with embedded weights, each
part of a detection's score is used in turn as the whole score of the same detections.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pycocotools import mask
from torch import Tensor

import zoo
from benchmarks import accuracy, analysis
from benchmarks.cases import Dataset
from benchmarks.dataset import default_dataset, image_ids
from benchmarks.studies.side_by_side import markdown
from fcos import Detector
from fcos.coco_eval import Result, figures, match_detections

REPORT = Path("reports/quality_branch.md")
TEXT = """\
# Class score and quality

The score of a detection combines its class score and its quality, such as centre-ness. Here each of
them, and each way to combine them, is used as the score of the same detections, after NMS:

- AP: average precision with the boxes ranked by this score.
- ECE: expected calibration error, the difference between the score and the share of boxes that are
  right (IoU 0.5), in ten bins, in percent.
- gap to IoU: the same for the difference between the score and the IoU with the nearest object of
  the class.
- rank correlation: Spearman's, between the score and that IoU, over boxes with an IoU of at least
  0.1.
- OCE: object-level calibration error (0 to 2), and the score threshold at which it is least.

`python -m benchmarks.studies.quality_branch` writes this page.
"""
KINDS = ("class score", "quality", "product", "square root of it")
Parts = dict[str, Tensor]


def main() -> None:
    """Write the report."""
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
        title = (
            f"## {name}\n\nQuality: {detector.card.config['loss']['quality']}. "
            f"Measured on {len(ids):,} images of {dataset.name}."
        )
        parts.append(markdown(table(detector, dataset, ids), title) + "\n")
    REPORT.write_text("\n".join(parts))


def table(detector: Detector, dataset: Dataset, ids: Sequence[int]) -> list[dict[str, str]]:
    """Return the table of one model."""
    rows = []
    for kind, results in detect(detector, dataset, ids).items():
        evaluation = match_detections(results, dataset.annotations, ids)
        values = analysis.analyse(evaluation)
        matched = overlaps(evaluation)
        gap = analysis.calibration_error(matched["score"].to_numpy(), matched["iou"].to_numpy())
        near = matched[matched["iou"] >= 0.1]
        rows.append(
            {
                "score": kind,
                "AP": f"{100 * figures(evaluation)['AP']:.1f}",
                "ECE": f"{100 * values['ece']:.1f}",
                "gap to IoU": f"{100 * (gap or 0):.1f}",
                "rank correlation": f"{near.corr('spearman').iloc[0, 1]:.2f}",
                "OCE": f"{values['oce']:.2f}",
                "at threshold": f"{values['oce_threshold']:.2f}",
            }
        )
    return rows


def detect(detector: Detector, dataset: Dataset, ids: Sequence[int]) -> dict[str, list[Result]]:
    """Return the detections of the images, scored by each part of their score.

    Raises:
        ValueError: the dataset lacks some of the detector's classes.
    """
    found: list[Parts] = []

    def predict(images: list[Tensor]) -> list[Parts]:
        found.append(split_scores(detector, images[0]))
        return found[-1:]

    plus_one = detector.decoder.plus_one
    results = accuracy.detect_with(predict, detector.classes, dataset, ids, plus_one=plus_one)
    scores = {kind: torch.cat([parts[kind] for parts in found]).tolist() for kind in KINDS}
    return {
        kind: [{**one, "score": score} for one, score in zip(results, scores[kind], strict=True)]
        for kind in KINDS
    }


@torch.inference_mode()
def split_scores(detector: Detector, image: Tensor) -> Parts:
    """Return the detections of an image with the parts of their scores.

    A detection is traced to the head's output of its class with the same score.
    """
    batch, sizes, scales = detector.prepare([image])
    levels = detector.network(batch)
    candidates = detector.candidates(levels, batch)
    (found,) = detector.decoder.detections(candidates, sizes, scales)
    if any(level.quality is None for level in levels) or detector.decoder.score == "class":
        raise ValueError("this model has no quality branch, or its scores do not depend on it")
    logits = torch.cat([level.logits.flatten(2)[0] for level in levels], dim=1)  # (C, L)
    quality = torch.cat([level.quality.flatten() for level in levels if level.quality is not None])
    classes, quality = logits.float().sigmoid(), quality.float().sigmoid()
    product = classes * quality
    score = product.sqrt() if detector.decoder.score == "sqrt" else product
    labels = found["labels"]
    place = (score[labels] - found["scores"][:, None]).abs().argmin(dim=1)
    own = product[labels, place]
    parts = (classes[labels, place], quality[place], own, own.sqrt())
    return {**found, **dict(zip(KINDS, parts, strict=True))}


def overlaps(evaluation: Any) -> pd.DataFrame:
    """Return each detection's `score`, and its `iou` with the nearest object of its class, or 0."""
    rows = []
    for image in evaluation.params.imgIds:
        objects = evaluation.cocoGt.imgToAnns[image]
        for row in evaluation.cocoDt.imgToAnns[image]:
            boxes = [o["bbox"] for o in objects if o["category_id"] == row["category_id"]]
            ious = mask.iou([row["bbox"]], boxes, [0] * len(boxes)) if boxes else [0.0]
            rows.append({"score": row["score"], "iou": float(np.max(ious))})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
