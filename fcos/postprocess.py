"""From the head's outputs to detections: score threshold, top-k, class-wise NMS, best per image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torchvision.ops import nms

from backbones.ranges import Count, Share
from fcos.boxes import Size, ltrb_to_boxes
from fcos.checked import checked
from fcos.head import Level
from fcos.preprocess import ImageBatch

PADDING = -1.0  # the score of places without a candidate
FAR = 1e6  # pixels: NMS clamps the boxes of a diverged network here


class Candidates(NamedTuple):
    """K scored boxes for each of N images, padded.

    `boxes` (N, K, 4) xyxy pixels, `scores` (N, K) and `labels` (N, K) int64. An image with fewer
    than K candidates has score `PADDING` in the places left over.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def counts(self) -> list[int]:
        """Return the number of candidates of each image. This synchronises with the device."""
        counts: list[int] = (self.scores > PADDING).sum(dim=1).tolist()
        return counts

    def best(self, k: int | None = None) -> Candidates:
        """Return the `k` candidates of highest score, sorted; equal scores keep their order."""
        order = self.scores.argsort(dim=1, descending=True, stable=True)[:, :k]
        boxes = _gather_rows(self.boxes, order)
        return Candidates(boxes, self.scores.gather(1, order), self.labels.gather(1, order))

    def unpad(self) -> list[dict[str, Tensor]]:
        """Return {"boxes": (n, 4), "scores": (n,), "labels": (n,)} of each image, best first."""
        counts = self.counts()
        images = zip(*self.best(max(counts)), counts, strict=True)
        return [{"boxes": b[:n], "scores": s[:n], "labels": c[:n]} for b, s, c, n in images]


@checked
@dataclass(kw_only=True, eq=False)
class Decoder:
    """Turn the head's outputs into detections by the rules of one published system.

    Candidates are (location, class) pairs over the score threshold, the best `top_k` of each level.
    Class-wise NMS over all levels follows, then the best `max_detections` of each image. Several
    detections with the same score in the last place are all kept, so there can be more.

    Candidates are found for the whole batch at once. NMS loops over the images, because its cost is
    quadratic in the number of boxes.

    Args:
        score: "sqrt" of class score times quality, their "product", or only the "class" score.
        score_threshold: a candidate's class score must exceed it, or with `threshold_on="score"`
            its final score.
        min_score: the lowest final score of a detection.
        top_k: candidates per level, or None for all.
        top_k_of: what `top_k` counts: (location, class) "pairs", or "locations" with all classes.
        max_candidates: candidates of all levels together, or None for all.
        one_class: only the best class of a location is a candidate.
        nms_threshold: boxes with a higher IoU are suppressed.
        class_agnostic: boxes of different classes suppress each other too.
        max_detections: per image, or None for all.
        plus_one: the old pixel convention: sides are x2 - x1 + 1 in NMS, and the last pixel is
            width - 1 in clipping.
        clip: clip boxes "before" NMS to the image as fed to the network, or "after" it to the
            output image; the latter also removes empty boxes.
    """

    score: Literal["sqrt", "product", "class"] = "sqrt"
    score_threshold: Share = 0.05
    threshold_on: Literal["class", "score"] = "class"
    min_score: Share = 0.0
    top_k: Count | None = 1000
    top_k_of: Literal["pairs", "locations"] = "pairs"
    max_candidates: Count | None = None
    one_class: bool = False
    nms_threshold: Share = 0.6
    class_agnostic: bool = False
    max_detections: Count | None = 100
    plus_one: bool = False
    clip: Literal["before", "after"] = "after"

    @torch.no_grad()
    def candidates(
        self,
        levels: Sequence[Level],
        points: Sequence[Tensor],
        batch: ImageBatch,
        valid: Tensor | None = None,
    ) -> Candidates:
        """Return the boxes that go into NMS, in pixels of the images as fed to the network.

        Args:
            levels: the head's outputs for N images.
            points: the (L_i, 2) locations of each level, as (x, y) pixels of the batch.
            batch: where each image lies in the network's input.
            valid: (N, L) bool, False where a location must not detect anything.
        """
        parts = []
        start = 0
        for level, locations in zip(levels, points, strict=True):
            stop = start + locations.shape[0]  # `len` would be constant in a graph
            part = None if valid is None else valid[:, start:stop]
            parts.append(self._level_candidates(level, locations, part))
            start = stop
        candidates = concatenate(parts)
        if self.max_candidates is not None:
            candidates = candidates.best(self.max_candidates)
        boxes, scores, labels = candidates
        boxes = boxes - self.per_side(batch.offsets, boxes)
        if self.clip == "before":
            border = self.per_side(batch.sizes, boxes) - int(self.plus_one)
            boxes = torch.minimum(boxes.clamp(min=0), border)
        # The boxes in unused places must not widen the range of coordinates that NMS shifts by.
        return Candidates(boxes.where(scores[..., None] > PADDING, 0.0), scores, labels)

    def _level_candidates(self, level: Level, points: Tensor, valid: Tensor | None) -> Candidates:
        """Return the best `top_k` (location, class) pairs of one level."""
        score, passed = self._scores(level)  # (N, C, L_i)
        if valid is not None:
            passed &= valid[:, None]
        classes, cells = score.shape[1:]
        if self.top_k_of == "locations":
            if self.one_class:
                label = torch.arange(classes, device=score.device)[:, None]
                passed &= label == score.argmax(dim=1, keepdim=True)
            _, cell = self.top(score.amax(dim=1))
            pick = cell[:, None].expand(-1, classes, -1)
            best = score.gather(2, pick).where(passed.gather(2, pick), PADDING).flatten(1)
            cell = cell.repeat(1, classes)
            labels = torch.arange(classes, device=cell.device)[:, None].expand(-1, pick.shape[2])
            labels = labels.flatten().expand_as(cell)
        else:
            score = score.where(passed, PADDING)
            if self.one_class:
                score, label = score.max(dim=1, keepdim=True)
            best, index = self.top(score.flatten(1))
            cell = index % cells
            labels = label.flatten(1).gather(1, cell) if self.one_class else index // cells
        ltrb = _gather_rows(level.ltrb.flatten(2).transpose(1, 2), cell)
        return Candidates(ltrb_to_boxes(points[cell], ltrb), best, labels)

    def top(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return at most `top_k` of scores (N, L), the highest, and their indices."""
        count = scores.shape[1]
        best, index = scores.topk(count if self.top_k is None else min(self.top_k, count), dim=1)
        return best, index

    def _scores(self, level: Level) -> tuple[Tensor, Tensor]:
        """Return the final scores of classes at locations, and whether they pass the threshold."""
        class_score = level.logits.sigmoid()
        score = class_score
        if self.score != "class" and level.quality is not None:
            score = class_score * level.quality.sigmoid()
        if self.score == "sqrt":
            score = score.sqrt()
        tested = class_score if self.threshold_on == "class" else score
        passed = tested > self.score_threshold
        if self.min_score:
            passed &= score >= self.min_score
        return score.flatten(2), passed.flatten(2)

    @torch.no_grad()
    def detections(
        self,
        candidates: Candidates,
        sizes: Sequence[Size],
        scales: Sequence[tuple[float, float]] | None = None,
    ) -> list[dict[str, Tensor]]:
        """Return the detections of each image, best first.

        Args:
            candidates: of N images.
            sizes: (height, width) of the images that the boxes are for.
            scales: (y, x) factors from the network's input to those images; default 1.

        Returns:
            {"boxes": (n, 4) xyxy, "scores": (n,), "labels": (n,) int64} of each image.
        """
        return self.select(candidates, sizes, scales, candidates.counts()).unpad()

    def select(
        self,
        candidates: Candidates,
        sizes: Sequence[Size],
        scales: Sequence[tuple[float, float]] | None = None,
        counts: Sequence[int] | None = None,
    ) -> Candidates:
        """Return `detections` in tensors of fixed shape: all other places get the score `PADDING`.

        Args:
            candidates, sizes, scales: see `detections`.
            counts: `candidates.counts()`. NMS takes longer without them, but then no shape depends
                on values, so that the graph can be exported.
        """
        boxes, scores, labels = candidates.best()
        kept = self.nms_mask(Candidates(boxes, scores, labels), counts) & (scores > PADDING)
        if self.max_detections is not None:
            first = kept & (kept.cumsum(dim=1) <= self.max_detections)
            kept &= scores >= scores.where(first, math.inf).amin(dim=1, keepdim=True)
        if scales is not None:
            boxes = boxes * self.per_side(scales, boxes)
        if self.clip == "after":
            boxes = torch.minimum(boxes.clamp(min=0), self.per_side(sizes, boxes))
            kept &= (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)
        return Candidates(boxes, scores.where(kept, PADDING), labels)

    def nms_mask(self, candidates: Candidates, counts: Sequence[int] | None) -> Tensor:
        """Return (N, K): which candidates survive NMS, of the first `counts[i]` of image i."""
        kept = torch.zeros_like(candidates.labels)
        counts = counts or [kept.shape[1]] * len(kept)
        rows = []
        for row, boxes, scores, labels, n in zip(kept, *candidates, counts, strict=True):
            separated = self.separate_classes(boxes[:n], labels[:n])
            keep = nms(separated, scores[:n].double(), self.nms_threshold)
            rows.append(row.index_fill(0, keep, 1))
        return torch.stack(rows) > 0

    def separate_classes(self, boxes: Tensor, labels: Tensor) -> Tensor:
        """Shift the boxes (n, 4) of each class so far that different classes never overlap.

        This is done in float64, in which the shift does not change any IoU noticeably.
        """
        boxes = boxes.double().clamp(-FAR, FAR)
        if self.plus_one:
            boxes = boxes + boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
        if self.class_agnostic or boxes.numel() == 0:
            return boxes
        return boxes + (labels * (boxes.max() - boxes.min() + 1))[:, None]

    def per_side(self, pairs: Sequence[tuple[float, float]], boxes: Tensor) -> Tensor:
        """Return a (y, x) pair for each of N images as (N, 1, 4) values for x1, y1, x2, y2."""
        values = torch.tensor(pairs, dtype=torch.float32, device="cpu")
        return values.flip(-1).repeat(1, 2)[:, None].to(boxes.device, non_blocking=True)


def concatenate(parts: Sequence[Candidates]) -> Candidates:
    """Return all candidates of each image."""
    return Candidates(*(torch.cat(tensors, dim=1) for tensors in zip(*parts, strict=True)))


def _gather_rows(values: Tensor, index: Tensor) -> Tensor:
    """Return rows (N, K, 4) of (N, L, 4) at `index` (N, K)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))
