"""Write a dataset of any known format in COCO's or YOLO's, with its images copied or linked."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from fcos.data.annotations import category_names, load_annotations, valid_objects
from fcos.data.dataset import image_dimensions
from fcos.data.formats import Splits, split_kind
from fcos.data.image_files import existing_images

Format = Literal["coco", "yolo"]
Images = Literal["copy", "link"]


class Split(NamedTuple):
    """The numbers of images, objects and irregularities of a written split."""

    images: int
    objects: int
    counts: Counter[str]


def convert(splits: Splits, out: Path, format: Format, images: Images) -> dict[str, Split]:
    """Write all splits into a new folder.

    COCO: `annotations/instances_SPLIT.json` and `images/SPLIT`. YOLO: `data.yaml`, `images/SPLIT`
    and `labels/SPLIT`, with the splits train, val and test, and without crowds. Masks and polygons
    become boxes. Images keep their names without folders, with numbers if two have the same name.

    Raises:
        FileExistsError: the folder is not empty.
        ImageError: an image is missing, or has no size in the annotations and is unreadable.
        ValueError: a split cannot be read, or has no name in YOLO's format.
    """
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty: choose another folder")
    names = {name: name for name in splits} if format == "coco" else _yolo_names(splits)
    written: dict[str, Split] = {}
    classes: list[str] = []
    for name, read in splits.items():
        counts: Counter[str] = Counter()
        content, files = _boxes(*read(), counts)
        for row, file in zip(content["images"], files, strict=True):
            target = out / "images" / names[name] / row["file_name"]
            target.parent.mkdir(parents=True, exist_ok=True)
            if images == "link":
                target.symlink_to(file.resolve())
            else:
                shutil.copyfile(file, target)
        if format == "coco":
            path = out / "annotations" / f"instances_{name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content))
        else:
            new = dict.fromkeys(category["name"] for category in content["categories"])
            classes += [name for name in new if name not in classes]
            _write_labels(content, classes, out / "labels" / names[name])
        written[name] = Split(len(files), len(content["annotations"]), counts)
    if format == "yolo":
        described = {split: f"images/{split}" for split in names.values()}
        described["names"] = dict(enumerate(classes))  # type: ignore[assignment]
        text = yaml.safe_dump(described, sort_keys=False, allow_unicode=True)
        (out / "data.yaml").write_text(text, encoding="utf-8")
    return written


def _yolo_names(splits: Iterable[str]) -> dict[str, str]:
    """Return YOLO's name of each split."""
    names = {name: split_kind(name) or "train" for name in splits}
    if len(set(names.values())) < len(names):
        raise ValueError(
            f"{', '.join(names)}: a YOLO dataset has one split each for train, val, test"
        )
    return names


def _boxes(
    annotations: Any, image_dir: Path, counts: Counter[str]
) -> tuple[dict[str, Any], list[Path]]:
    """Return annotations of boxes only, with new file names, and the original files."""

    def note(kind: str, where: str) -> None:
        counts[kind] += 1

    content = load_annotations(annotations)
    counts.update(kind for kind, _ in content["notes"])
    images = existing_images(content["images"], image_dir, note=note)
    sizes = image_dimensions(images, image_dir, False, note).tolist()
    files = [image_dir / image["file_name"] for image in images]
    rows = [
        {"id": image["id"], "file_name": name, "height": height, "width": width}
        for image, name, (height, width) in zip(images, _names(files), sizes, strict=True)
    ]
    things = [{"id": i, **thing} for i, thing in enumerate(valid_objects(content, note), 1)]
    categories = [{"id": id, "name": name} for id, name in category_names(content).items()]
    return {"images": rows, "annotations": things, "categories": categories}, files


def _names(files: Sequence[Path]) -> list[str]:
    """Return file names without folders, with numbers if their label files would be the same."""
    taken: set[str] = set()
    names = []
    for number, file in enumerate(files, 1):
        name = file.name
        while Path(name).stem.casefold() in taken:
            name = f"{number}_{name}"
        taken.add(Path(name).stem.casefold())
        names.append(name)
    return names


def _write_labels(content: Mapping[str, Any], classes: Sequence[str], folder: Path) -> None:
    """Write a text file for each image, with a line for each object."""
    folder.mkdir(parents=True)
    index_of = {c["id"]: classes.index(c["name"]) for c in content["categories"]}
    lines: dict[int, list[str]] = {image["id"]: [] for image in content["images"]}
    size_of = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    for thing in content["annotations"]:
        if thing["iscrowd"]:
            continue
        x, y, w, h = thing["bbox"]
        width, height = size_of[thing["image_id"]]
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + w, width), min(y + h, height)
        centre = (left + right) / 2 / width, (top + bottom) / 2 / height
        size = (right - left) / width, (bottom - top) / height
        if min(size) > 0:
            numbers = " ".join(f"{share:.10g}" for share in (*centre, *size))
            lines[thing["image_id"]].append(f"{index_of[thing['category_id']]} {numbers}\n")
    for image in content["images"]:
        (folder / image["file_name"]).with_suffix(".txt").write_text("".join(lines[image["id"]]))
