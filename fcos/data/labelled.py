"""Images with boxes, as the readers of other formats give them, converted to COCO's format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

Box = Sequence[float]  # x1, y1, x2, y2 in pixels


class LabelledImage(NamedTuple):
    """An image of a dataset in another format than COCO's.

    `size` is (height, width), 0 where it is not known; `objects` are class names and xyxy boxes in
    pixels, None where the file has no valid one.
    """

    file_name: str
    size: tuple[int, int]
    objects: Sequence[tuple[str, Box | None]]


def text_lines(path: Path) -> list[str]:
    """The lines of a text file in UTF-8.

    Raises:
        ValueError: it has another encoding; the message names it.
    """
    try:
        return path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text in UTF-8 ({error})") from None


def to_coco(
    source: str | Path,
    images: Sequence[LabelledImage],
    classes: Sequence[str] | None = None,
    unlabelled: Sequence[str] = (),
) -> dict[str, Any]:
    """The content of a COCO annotation file that holds these images.

    Args:
        source: where they are from, for the error.
        images: in the order of their ids, which count from 1.
        classes: names in the order of the category ids, which count from 1; default: all that
            occur, sorted. Objects of other classes have no category.
        unlabelled: names of image files that are left out because nothing is known of them.

    Raises:
        ValueError: there are no images or no classes.
    """
    if classes is None:
        classes = sorted({name for image in images for name, _ in image.objects})
    if not images or not classes:
        raise ValueError(f"{source}: no image has an object")
    category_of = {name: number for number, name in enumerate(classes, 1)}
    things = [
        {
            "image_id": number,
            "category_id": category_of.get(name),
            "bbox": box and [box[0], box[1], box[2] - box[0], box[3] - box[1]],
            "iscrowd": 0,
        }
        for number, image in enumerate(images, 1)
        for name, box in image.objects
    ]
    return {
        "images": [
            {"id": number, "file_name": name, "height": height, "width": width}
            for number, (name, (height, width), _) in enumerate(images, 1)
        ],
        "annotations": [{"id": number, **thing} for number, thing in enumerate(things, 1)],
        "categories": [{"id": number, "name": name} for name, number in category_of.items()],
        "notes": [("image without annotation file", name) for name in unlabelled],
    }


def bounds(points: Sequence[Box]) -> Box | None:
    """The xyxy box around points (x, y); None without any."""
    xs, ys = ([point[axis] for point in points] for axis in (0, 1))
    return [min(xs), min(ys), max(xs), max(ys)] if points else None
