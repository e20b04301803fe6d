"""A procedurally drawn dataset: coloured shapes that occlude, crowd and vary in size.

It has any number of images from a seed, in COCO's format. A box is the exact extent of the
visible pixels of its shape, after occlusion and clipping by the image; `area` is their number.
"""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from PIL import Image, ImageDraw
from rich.console import Console
from rich.progress import track

CLASSES = ("circle", "square", "triangle")

LEAST_VISIBLE = 0.4  # fraction of a shape's pixels; with less, it cannot be recognised
SMALLEST, LARGEST = 0.03, 0.25  # radius as a fraction of the image's longer side


class Scene(NamedTuple):
    """An image, the (n, 4) xyxy pixel boxes, (n,) labels and (n,) visible pixels of its shapes."""

    image: Image.Image
    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray


def _ring(corners: int, radii: Sequence[float] = (1.0,)) -> np.ndarray:
    angles = np.arange(corners) * 2 * math.pi / corners
    return np.stack([np.cos(angles), np.sin(angles)], 1) * np.resize(radii, corners)[:, None]


# Outlines in a circle of radius 1.
OUTLINES: dict[str, np.ndarray] = {
    "circle": _ring(40),
    "square": _ring(4),
    "triangle": _ring(3),
    "hexagon": _ring(6),
    "star": _ring(10, (1.0, 0.4)),
    "cross": 0.95 * np.array(
        [(-1, -.3), (-.3, -.3), (-.3, -1), (.3, -1), (.3, -.3), (1, -.3),
         (1, .3), (.3, .3), (.3, 1), (-.3, 1), (-.3, .3), (-1, .3)]
    ),
    "arrow": np.array([(1, 0), (.1, .8), (.1, .3), (-.95, .3), (-.95, -.3), (.1, -.3), (.1, -.8)]),
}  # fmt: skip


def draw(rng: random.Random, size: int, classes: Sequence[str] = CLASSES, most: int = 10) -> Scene:
    """Draw one image of up to `most` shapes, with a longer side of `size` pixels."""
    short = rng.randint(size * 3 // 4, size)
    width, height = (size, short) if rng.random() < 0.5 else (short, size)
    image = _background(rng, width, height)
    owners = Image.new("L", (width, height))  # for each pixel 0, or the number of the visible shape
    labels: list[int] = []
    centres: list[tuple[float, float]] = []
    wholes: list[float] = []
    for _ in range(rng.randint(0, most)):
        label = rng.randrange(len(classes))
        radius = size * math.exp(rng.uniform(math.log(SMALLEST), math.log(LARGEST)))
        if centres and rng.random() < 0.5:  # close to another shape
            near, angle = rng.choice(centres), rng.uniform(0, 2 * math.pi)
            centre = (
                near[0] + 1.3 * radius * math.cos(angle),
                near[1] + 1.3 * radius * math.sin(angle),
            )
        else:
            centre = rng.uniform(0, width), rng.uniform(0, height)
        points = _place(OUTLINES[classes[label]], centre, radius, rng.uniform(0, 2 * math.pi))
        trial = owners.copy()
        ImageDraw.Draw(trial).polygon(points, fill=len(labels) + 1)
        seen = np.bincount(np.asarray(trial).ravel(), minlength=len(labels) + 2)[1:]
        if (seen < LEAST_VISIBLE * np.array([*wholes, _area(points)])).any():
            continue
        owners = trial
        labels.append(label)
        centres.append(centre)
        wholes.append(_area(points))
        _paint(rng, image, points)
    boxes, areas = _extents(np.asarray(owners), len(labels))
    return Scene(image, boxes, np.array(labels, dtype=np.int64), areas)


def _place(
    outline: np.ndarray, centre: tuple[float, float], radius: float, angle: float
) -> list[tuple[float, float]]:
    cos, sin = math.cos(angle), math.sin(angle)
    points = outline @ np.array([[cos, sin], [-sin, cos]]) * radius + np.array(centre)
    return [(x, y) for x, y in points.tolist()]


def _area(points: list[tuple[float, float]]) -> float:
    following = points[1:] + points[:1]
    return abs(sum(x * v - u * y for (x, y), (u, v) in zip(points, following, strict=True))) / 2


def _colour(rng: random.Random) -> tuple[int, int, int]:
    return rng.randrange(256), rng.randrange(256), rng.randrange(256)


def _background(rng: random.Random, width: int, height: int) -> Image.Image:
    """Draw smooth patches of random colours with fine noise, and lines as distractors."""
    noise = np.random.default_rng(rng.getrandbits(64))
    cells = rng.randint(2, 12)
    blotches = noise.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
    smooth = Image.fromarray(blotches).resize((width, height), Image.Resampling.BILINEAR)
    grain = noise.integers(0, rng.randint(2, 40), (height, width, 1), dtype=np.uint8)
    image = Image.fromarray(np.asarray(smooth) // 2 + 50 + grain)
    pen = ImageDraw.Draw(image)
    for _ in range(rng.randint(0, 6)):
        ends = [(rng.uniform(0, width), rng.uniform(0, height)) for _ in range(2)]
        pen.line(ends, fill=_colour(rng), width=rng.randint(1, 4))
    return image


def _paint(rng: random.Random, image: Image.Image, points: list[tuple[float, float]]) -> None:
    """Fill with a colour that differs from the pixels below."""
    x = min(max(int(sum(x for x, _ in points) / len(points)), 0), image.width - 1)
    y = min(max(int(sum(y for _, y in points) / len(points)), 0), image.height - 1)
    beneath = image.crop((x, y, x + 1, y + 1)).tobytes()
    colour = _colour(rng)
    while sum(abs(a - b) for a, b in zip(colour, beneath, strict=True)) < 120:
        colour = _colour(rng)
    ImageDraw.Draw(image).polygon(points, fill=colour)


def _extents(owners: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    boxes, areas = np.zeros((count, 4), dtype=np.int64), np.zeros(count, dtype=np.int64)
    for number in range(count):
        seen = owners == number + 1
        columns, rows = np.flatnonzero(seen.any(axis=0)), np.flatnonzero(seen.any(axis=1))
        boxes[number] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        areas[number] = seen.sum()
    return boxes, areas


def write(
    folder: str | Path,
    count: int,
    seed: int = 0,
    size: int = 320,
    classes: Sequence[str] = CLASSES,
    most: int = 10,
) -> Path:
    """Write `count` images to `folder`/images and their COCO annotations beside them.

    The annotations are written last: a folder without them is incomplete and drawn again. A folder
    that was drawn with the same arguments is left unchanged.

    Args:
        folder: created if it does not exist.
        count: number of images.
        seed: image i depends only on the seed and i.
        size: longer side of the images in pixels; the shorter is at least three quarters of it.
        classes: names of `OUTLINES`.
        most: maximum number of shapes per image, fewer than 255; some images have none.

    Returns:
        The annotation file, `folder`/annotations.json.

    Raises:
        ValueError: a class is unknown, or `most` is too large.
        FileExistsError: the folder holds images drawn with other arguments.
    """
    if unknown := [name for name in classes if name not in OUTLINES]:
        raise ValueError(f"no shape is called {unknown[0]!r}; there are {', '.join(OUTLINES)}")
    if most >= 255:
        raise ValueError(f"most={most} shapes per image are too many: choose fewer than 255")
    annotations = Path(folder) / "annotations.json"
    info = {
        "description": "procedurally drawn shapes",
        "arguments": {
            "count": count,
            "seed": seed,
            "size": size,
            "classes": [*classes],
            "most": most,
        },
    }
    if not _is_drawn(annotations, info):
        (Path(folder) / "images").mkdir(parents=True, exist_ok=True)
        with FileLock(Path(folder) / ".lock"):  # the jobs of a sweep may draw the same set
            if not _is_drawn(annotations, info):
                _write(annotations, info)
    return annotations


def _is_drawn(annotations: Path, info: Mapping[str, Any]) -> bool:
    if not annotations.exists():
        return False
    if json.loads(annotations.read_bytes()).get("info") != info:
        raise FileExistsError(
            f"{annotations.parent} holds images drawn with other arguments: choose another folder"
        )
    return True


def _write(annotations: Path, info: Mapping[str, Any]) -> None:
    """Draw the images, then write their annotations."""
    count, seed, size, classes, most = info["arguments"].values()
    images: list[dict[str, Any]] = []
    things: list[dict[str, Any]] = []
    console = Console(stderr=True)
    numbers = range(1, count + 1)
    for number in track(
        numbers, "Drawing shapes", console=console, disable=not console.is_terminal
    ):
        scene = draw(random.Random(f"{seed}/{number}"), size, classes, most)
        name = f"{number:06d}.jpg"
        scene.image.save(annotations.parent / "images" / name, quality=92)
        width, height = scene.image.size
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        for (x1, y1, x2, y2), label, area in zip(*(a.tolist() for a in scene[1:]), strict=True):
            things.append({
                "id": len(things) + 1, "image_id": number, "category_id": label + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1], "area": area, "iscrowd": 0,
            })  # fmt: skip
    categories = [{"id": index, "name": name} for index, name in enumerate(classes, 1)]
    content = {"info": info, "images": images, "annotations": things, "categories": categories}
    part = annotations.with_suffix(".part")
    part.write_text(json.dumps(content, separators=(",", ":")))
    os.replace(part, annotations)
