"""Datasets as they are asked for: by name under a root folder, or an annotation file and images."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fcos.data import shapes
from fcos.data.coco import CocoDataset, load_annotations
from fcos.data.dataset import DetectionDataset, concatenate
from fcos.data.named import Splits, coco_2014, coco_2017
from fcos.data.voc import voc_annotations


class Part(NamedTuple):
    """Annotations in COCO's format, a file or its content, and the folder of their images."""

    annotations: Path | Mapping[str, Any]
    images: Path


def parts(
    name: str,
    root: str | Path,
    images: str | Path | None = None,
    drawn: Mapping[str, Any] | None = None,
) -> list[Part]:
    """The annotation files and image folders of a dataset.

    Args:
        name: coco_2017_train, coco_2017_val, coco_2014_trainval35k, coco_2014_minival;
            voc_2007_trainval, voc_2007_test, voc_2012_trainval, voc_0712_trainval; shapes; or the
            path of an annotation file in COCO's format.
        root: the folder of the named ones.
        images: the folder of an annotation file's images; default: `images` beside it, or else
            the file's own folder.
        drawn: arguments of `fcos.data.shapes.write` for shapes, which are drawn now.

    Raises:
        ValueError, FileNotFoundError: there is no such dataset; the message names it.
    """
    root = Path(root)
    if name in _NAMED:
        return _NAMED[name](root)
    if name == "shapes":
        return [_shapes(root, drawn or {"count": 1000})]
    annotations = Path(name)
    if not annotations.is_file():
        raise FileNotFoundError(
            f"{name} is neither a file nor one of {', '.join([*_NAMED, 'shapes'])}"
        )
    beside = annotations.parent / "images"
    folder = Path(images) if images else beside if beside.is_dir() else annotations.parent
    return [Part(annotations, folder)]


def training_set(found: list[Part], **options: Any) -> DetectionDataset:
    """What to learn from; `options` are those of `CocoDataset`."""
    return concatenate([CocoDataset(part.annotations, part.images, **options) for part in found])


def test_set(found: list[Part]) -> tuple[DetectionDataset, Mapping[str, Any] | Path]:
    """All images, those without objects too, and the annotations to measure with."""
    (part,) = found
    return CocoDataset(part.annotations, part.images, keep_empty=True), part.annotations


def found_under(folder: str | Path) -> Iterator[tuple[str, Part]]:
    """The datasets of a folder in COCO's or VOC's layout, by name, each read when it is asked for.

    COCO: annotation files in `annotations/` or the folder itself, where there are such only those
    called instances_*.json. VOC: lists of images in `ImageSets/Main`, also one folder below.

    Raises:
        FileNotFoundError: there is none.
        ValueError: an annotation file is none; the message names it.
    """
    folder = Path(folder)
    found = False
    for root in (folder, *sorted(folder.glob("VOC*"))):
        lists = root / "ImageSets" / "Main"
        whole = (lists / "trainval.txt").is_file()
        for name in ("trainval", "test") if whole else ("train", "val", "test"):
            if (lists / f"{name}.txt").is_file():
                found = True
                yield f"{root.name} {name}", Part(voc_annotations(root, name), root / "JPEGImages")
    files = sorted((folder / "annotations").glob("*.json")) or sorted(folder.glob("*.json"))
    for path in [file for file in files if file.name.startswith("instances_")] or files:
        found = True
        content = load_annotations(path)
        yield path.stem, Part(content, _images_of(path, content))
    if not found:
        raise FileNotFoundError(
            f"{folder} holds neither annotations/*.json nor ImageSets/Main/*.txt: name an "
            "annotation file and its image folder"
        )


def _images_of(annotations: Path, content: Mapping[str, Any]) -> Path:
    """The folder near an annotation file that has most of its first images."""
    split = re.sub(r"(valminusmini|mini)val", "val", annotations.stem.removeprefix("instances_"))
    near = [annotations.parent, annotations.parent.parent]
    folders = [base / below for base in near for below in (split, f"images/{split}", "images", "")]
    names = [image["file_name"] for image in content["images"][:50]]
    return max(folders, key=lambda folder: sum(os.path.isfile(folder / name) for name in names))


def _coco(splits: Callable[[Path], Splits], train: bool) -> Callable[[Path], list[Part]]:
    def found(root: Path) -> list[Part]:
        official = splits(root)
        chosen = official.train if train else (official.val,)
        return [Part(split.annotations, split.images) for split in chosen]

    return found


def _voc(*image_sets: tuple[str, str]) -> Callable[[Path], list[Part]]:
    """Trained on with the difficult objects, measured without, as the centre-ness-free system."""

    def found(root: Path) -> list[Part]:
        several = []
        for year, image_set in image_sets:
            annotations = voc_annotations(root / year, image_set)
            for thing in annotations["annotations"] if image_set == "trainval" else ():
                thing["iscrowd"] = 0
            several.append(Part(annotations, root / year / "JPEGImages"))
        return several

    return found


def _shapes(root: Path, drawn: Mapping[str, Any]) -> Part:
    classes = "-".join(drawn.get("classes", shapes.CLASSES))
    numbers = "-".join(f"{key}{drawn[key]}" for key in ("size", "count", "seed") if key in drawn)
    annotations = shapes.write(root / f"shapes-{classes}-{numbers}", **drawn)
    return Part(annotations, annotations.parent / "images")


_NAMED: dict[str, Callable[[Path], list[Part]]] = {
    "coco_2017_train": _coco(coco_2017, train=True),
    "coco_2017_val": _coco(coco_2017, train=False),
    "coco_2014_trainval35k": _coco(coco_2014, train=True),
    "coco_2014_minival": _coco(coco_2014, train=False),
    "voc_2007_trainval": _voc(("VOC2007", "trainval")),
    "voc_2007_test": _voc(("VOC2007", "test")),
    "voc_2012_trainval": _voc(("VOC2012", "trainval")),
    "voc_0712_trainval": _voc(("VOC2007", "trainval"), ("VOC2012", "trainval")),
}
