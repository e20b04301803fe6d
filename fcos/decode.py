"""From the head's outputs to detections: threshold, top-k, class-wise NMS, the best of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torchvision.ops import nms

from fcos.boxes import Size, ltrb_to_boxes
from fcos.head import Level
from fcos.preprocess import ImageBatch

PADDING = -1.0  # the score of a place without a candidate
FAR = 1e6  # pixels, beyond which a box of a diverged network is cut for NMS
MUCH_PADDING = 40_000  # places, above which NMS on a GPU takes too much memory


class Candidates(NamedTuple):
    """K places for candidates of each of N images: `boxes` (N, K, 4) xyxy, `scores` (N, K) and
    `labels` (N, K)."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class Decoder:
    """Turn levels into detections by one published system's rules.

    Candidates are (location, class) pairs over the threshold, the best `top_k` of each level; then
    class-wise NMS over all levels, and the best `max_detections` of each image (a tie at the last
    score stays in, so there can be more). No loop over locations, classes or images; on a GPU the
    host waits twice, for NMS and for the counts.

    Args:
        score: "sqrt" of class score times quality, their "product", or the "class" score alone.
        score_threshold: strictly exceeded by a candidate's class score, or with `threshold_on`
            "score" by its final score.
        top_k: candidates of a level, or None for all.
        top_k_of: what `top_k` counts: (location, class) "pairs", or "locations" with all classes.
        max_candidates: candidates of all levels together, or None for all.
        one_class: only the best class of a location is a candidate.
        nms_threshold: an IoU above it suppresses.
        class_agnostic: one NMS over all classes.
        max_detections: of an image, or None for all.
        plus_one: the old pixel convention: sides are x2 - x1 + 1 in NMS, the last pixel is
            width - 1 in clipping.
        clip: boxes are cut at the image "before" NMS, or "after" it at the output image, where
            empty ones are dropped too.
    """

    def __init__(
        self,
        *,
        score: Literal["sqrt", "product", "class"] = "sqrt",
        score_threshold: float = 0.05,
        threshold_on: Literal["class", "score"] = "class",
        top_k: int | None = 1000,
        top_k_of: Literal["pairs", "locations"] = "pairs",
        max_candidates: int | None = None,
        one_class: bool = False,
        nms_threshold: float = 0.6,
        class_agnostic: bool = False,
        max_detections: int | None = 100,
        plus_one: bool = False,
        clip: Literal["before", "after"] = "after",
    ) -> None:
        self.score = score
        self.score_threshold = score_threshold
        self.threshold_on = threshold_on
        self.top_k = top_k
        self.top_k_of = top_k_of
        self.max_candidates = max_candidates
        self.one_class = one_class
        self.nms_threshold = nms_threshold
        self.class_agnostic = class_agnostic
        self.max_detections = max_detections
        self.plus_one = plus_one
        self.clip = clip

    @torch.no_grad()
    def __call__(
        self,
        levels: Sequence[Level],
        points: Sequence[Tensor],
        batch: ImageBatch,
        output_sizes: Sequence[Size] | None = None,
        scales: Sequence[tuple[float, float]] | None = None,
        valid: Tensor | None = None,
    ) -> list[dict[str, Tensor]]:
        """Detections of each image, best first.

        Args:
            levels, points: the head's outputs and the (L_i, 2) locations of each level.
            batch: where each image lies in the network's input.
            output_sizes: (height, width) of the images that the boxes are for; default as fed.
            scales: (y, x) factors from the fed image to the output image; default 1.
            valid: (N, L) bool, False where a location must yield nothing.

        Returns:
            One {"boxes": (n, 4) xyxy, "scores": (n,), "labels": (n,) int64} per image.
        """
        candidates = self.candidates(levels, points, batch, valid)
        return self.select(candidates, output_sizes or batch.sizes, scales)

    def candidates(
        self,
        levels: Sequence[Level],
        points: Sequence[Tensor],
        batch: ImageBatch,
        valid: Tensor | None = None,
    ) -> Candidates:
        """What may be a detection, in the pixels of the images as fed; see `__call__`.

        As many places an image as `top_k` and `max_candidates` allow, those left over with score
        PADDING.
        """
        parts = []
        start = 0
        for level, locations in zip(levels, points, strict=True):
            stop = start + len(locations)
            part = None if valid is None else valid[:, start:stop]
            parts.append(self._level_candidates(level, locations, part))
            start = stop
        boxes, scores, labels = (torch.cat(tensors, dim=1) for tensors in zip(*parts, strict=True))
        if self.max_candidates is not None and scores.shape[1] > self.max_candidates:
            scores, best = scores.topk(self.max_candidates, dim=1)
            boxes, labels = _take(boxes, best), labels.gather(1, best)
        offset = _to_device(batch.offsets, boxes.device)
        boxes = boxes - offset.flip(-1).repeat(1, 2)[:, None]
        if self.clip == "before":
            fed = _to_device(batch.sizes, boxes.device)
            border = fed.flip(-1).repeat(1, 2)[:, None] - int(self.plus_one)
            boxes = torch.minimum(boxes.clamp(min=0), border)
        return Candidates(boxes, scores, labels)

    def _level_candidates(self, level: Level, points: Tensor, valid: Tensor | None) -> Candidates:
        """The best `top_k` (location, class) pairs of one level, padded with score PADDING."""
        class_score = level.logits.sigmoid()
        score = class_score
        if self.score != "class" and level.quality is not None:
            score = class_score * level.quality.sigmoid()
        if self.score == "sqrt":
            score = score.sqrt()
        tested = class_score if self.threshold_on == "class" else score
        passed = tested > self.score_threshold
        if valid is not None:
            passed &= valid.view(len(score), 1, *score.shape[2:])

        images, classes, cells = len(score), score.shape[1], len(points)
        score, passed = score.view(images, classes, cells), passed.view(images, classes, cells)
        if self.top_k_of == "locations":
            k = cells if self.top_k is None else min(self.top_k, cells)
            cell = score.amax(dim=1).topk(k, dim=1).indices
            pick = cell[:, None].expand(-1, classes, -1)
            best = score.gather(2, pick).where(passed.gather(2, pick), PADDING).flatten(1)
            cell = cell.repeat(1, classes)
            labels = torch.arange(classes, device=cell.device).repeat_interleave(k).expand_as(cell)
        else:
            score = score.where(passed, PADDING)
            if self.one_class:
                score, label = score.max(dim=1, keepdim=True)
            flat = score.flatten(1)
            k = flat.shape[1] if self.top_k is None else min(self.top_k, flat.shape[1])
            best, index = flat.topk(k, dim=1)
            cell = index % cells
            labels = label.flatten(1).gather(1, cell) if self.one_class else index // cells
        ltrb = _take(level.ltrb.flatten(2).transpose(1, 2), cell)
        return Candidates(ltrb_to_boxes(points[cell], ltrb), best, labels)

    def best(self, candidates: Candidates, sizes: Sequence[Size]) -> Candidates:
        """The detections of each image in a fixed number of places, for graphs of fixed shapes.

        What `__call__` gives, but that of equal scores at the last place one is taken; places left
        over have score PADDING.

        Args:
            candidates: of N images.
            sizes: (height, width) of each image.
        """
        places = candidates.scores.shape[1]
        labels = candidates.labels
        # Nothing far away, nor of another image, moves boxes apart: runtimes do it in float32.
        boxes = candidates.boxes.where(candidates.scores[..., None] != PADDING, 0.0)
        images = zip(boxes, candidates.scores, labels, strict=True)
        kept = torch.stack([self._kept(*image) for image in images])
        count = places if self.max_detections is None else min(self.max_detections, places)
        scores, order = candidates.scores.where(kept, PADDING).topk(count, dim=1)
        boxes, labels = _take(boxes, order), labels.gather(1, order)
        if self.clip == "before":
            return Candidates(boxes, scores, labels)
        border = _to_device(sizes, boxes.device).flip(-1).repeat(1, 2)[:, None]
        boxes = torch.minimum(boxes.clamp(min=0), border)
        solid = (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)
        scores, order = scores.where(solid, PADDING).topk(count, dim=1)
        return Candidates(_take(boxes, order), scores, labels.gather(1, order))

    def _kept(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        """Which of one image's places NMS keeps."""
        apart = self._apart(boxes, labels, torch.zeros_like(labels))
        keep = nms(apart, scores.double(), self.nms_threshold)
        return torch.zeros_like(labels).index_fill(0, keep, 1) > 0

    def select(
        self,
        candidates: Candidates,
        output_sizes: Sequence[Size],
        scales: Sequence[tuple[float, float]] | None = None,
    ) -> list[dict[str, Tensor]]:
        """NMS over the whole batch at once, then the best of each image; see `__call__`."""
        images, device = len(candidates.scores), candidates.scores.device
        output = _to_device(output_sizes, device)
        scale = torch.ones_like(output) if scales is None else _to_device(scales, device)
        image = torch.arange(images, device=device).repeat_interleave(
            candidates.scores.shape[1], output_size=candidates.scores.numel()
        )
        boxes = candidates.boxes.flatten(0, 1)
        scores, labels = candidates.scores.flatten(), candidates.labels.flatten()
        if scores.device.type == "cpu" or len(scores) > MUCH_PADDING:
            # Without padding NMS is quicker; on a GPU counting what is left is one more wait.
            real = (scores != PADDING).nonzero()[:, 0]
            boxes, scores, labels, image = boxes[real], scores[real], labels[real], image[real]
        keep = nms(self._apart(boxes, labels, image), scores.double(), self.nms_threshold)
        boxes, scores, labels, image = boxes[keep], scores[keep], labels[keep], image[keep]

        boxes = boxes * scale.flip(-1).repeat(1, 2)[image]
        chosen = scores != PADDING
        if self.clip == "after":
            boxes = torch.minimum(boxes.clamp(min=0), output.flip(-1).repeat(1, 2)[image])
        if self.max_detections is not None and len(scores):
            chosen &= scores >= _nth_score(scores, image, images, self.max_detections)[image]
        if self.clip == "after":
            chosen &= (boxes[:, 2:] > boxes[:, :2]).all(dim=1)

        # Group by image, the chosen first; NMS left the scores in falling order.
        order = (image * 2 + ~chosen).argsort(stable=True)
        boxes, scores, labels = boxes[order], scores[order], labels[order]
        total = image.new_zeros(images).index_add(0, image, torch.ones_like(image))
        count = image.new_zeros(images).index_add(0, image, chosen.long())
        spans = torch.stack((total.cumsum(0) - total, count), dim=1).tolist()
        return [
            {
                "boxes": boxes[start : start + n],
                "scores": scores[start : start + n],
                "labels": labels[start : start + n],
            }
            for start, n in spans
        ]

    def _apart(self, boxes: Tensor, labels: Tensor, image: Tensor) -> Tensor:
        """Boxes moved so far apart by image and class that only those of one group overlap.

        In float64, where the shift costs no precision that an IoU could notice.
        """
        boxes = boxes.double().clamp(-FAR, FAR)
        if self.plus_one:
            boxes = boxes + boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
        if boxes.numel() == 0:
            return boxes
        group = image if self.class_agnostic else image * (labels.max() + 1) + labels
        return boxes + (group * (boxes.max() - boxes.min() + 1))[:, None]


def _to_device(values: Sequence[tuple[float, float]], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).to(device, non_blocking=True)


def _take(values: Tensor, index: Tensor) -> Tensor:
    """Rows (N, K, 4) of (N, L, 4) at `index` (N, K)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


def _nth_score(scores: Tensor, image: Tensor, images: int, n: int) -> Tensor:
    """The n-th best score of each image, PADDING where it has fewer; `scores` fall."""
    order = image.argsort(stable=True)
    total = image.new_zeros(images).index_add(0, image, torch.ones_like(image))
    place = (total.cumsum(0) - total + n - 1).clamp(max=len(scores) - 1)
    return scores[order][place].where(total >= n, PADDING)
