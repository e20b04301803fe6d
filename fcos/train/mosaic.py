"""Mosaics of images with their boxes: what a run trains on, and what it detects."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from fcos.data.dataset import DetectionDataset
from fcos.data.loader import Batch
from fcos.detections import class_names
from fcos.detector import Detector
from fcos.drawing import draw_boxes

TILES, TILE = 16, 400  # images of a mosaic, and the longest side of each in pixels
SCORE = 0.3  # of the detections that are drawn
Tile = tuple[Image.Image, Tensor, Tensor, list[str]]  # image, boxes, labels, texts


def first_drawn(batches: Iterator[Batch], classes: Sequence[str], path: Path) -> Iterator[Batch]:
    """The same batches; the first is drawn as the network gets it, with its boxes."""
    for number, (images, targets) in enumerate(batches):
        if number == 0:
            tiles = [
                (
                    Image.fromarray(image.permute(1, 2, 0).numpy()),
                    target["boxes"],
                    target["labels"],
                    class_names(target["labels"], classes),
                )
                for image, target in zip(images[:TILES], targets[:TILES], strict=True)
            ]
            draw(tiles, path)
        yield images, targets


def draw_detections(detector: Detector, dataset: DetectionDataset, path: Path) -> None:
    """Draw what a detector finds in the first images of a dataset.

    Detections of at least `SCORE` are drawn, and as many of the best as the image has objects.
    """
    training = detector.training
    detector.eval()
    tiles = []
    for index in range(min(TILES, len(dataset))):
        image, target = dataset.open(index)
        (found,) = detector.detect(image)
        kept = found[: max(len(target["labels"]), int((found.scores >= SCORE).sum()))]
        texts = [f"{n} {score:.0%}" for n, score in zip(kept.names, kept.scores, strict=True)]
        tiles.append((image, kept.boxes.cpu(), kept.labels.cpu(), texts))
    detector.train(training)
    draw(tiles, path)


def draw(tiles: Sequence[Tile], path: Path) -> None:
    """Draw images in rows of equal number into a JPEG file."""
    columns = math.ceil(math.sqrt(len(tiles)))
    drawn = [_tile(*tile) for tile in tiles]
    width, height = (max(tile.size[side] for tile in drawn) for side in (0, 1))
    canvas = Image.new("RGB", (columns * width, math.ceil(len(drawn) / columns) * height))
    for number, tile in enumerate(drawn):
        canvas.paste(tile, (number % columns * width, number // columns * height))
    canvas.save(path, quality=85)


def _tile(image: Image.Image, boxes: Tensor, labels: Tensor, texts: Sequence[str]) -> Image.Image:
    factor = TILE / max(image.size)
    tile = image.resize([max(1, round(side * factor)) for side in image.size])
    draw_boxes(tile, boxes * factor, labels, texts)
    return tile
