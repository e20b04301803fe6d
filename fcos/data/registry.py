"""Datasets by name under a root folder, or by the path of a file or folder."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from fcos.data import shapes
from fcos.data.annotations import Annotations, DatasetSource, load_annotations, valid_objects
from fcos.data.dataset import CocoDataset, DetectionDataset, concatenate
from fcos.data.formats import choose_split, find_splits
from fcos.data.voc import voc_annotations

TestSet = tuple[DetectionDataset, Any]  # the images, and the annotations to evaluate with

MINIVAL = ("coco_2017_val", "coco_2014_minival")  # the same 5,000 images
MINIVAL_IMAGES = 5000
# SHA-256 of the ids of its 4,952 images with annotations: ascending, in decimal, separated by
# spaces.
MINIVAL_ANNOTATED = "4eb450a8bbceb096870d56608cf4e9284570c0f8800f87c93179517f6abfa9eb"

# The licenses that `coco_safe` accepts, which allow redistribution.
SAFE_LICENSES = (
    *("creativecommons.org/licenses/by/", "creativecommons.org/licenses/by-sa/"),
    *("creativecommons.org/licenses/by-nd", "flickr.com/commons/usage", "www.usa.gov"),
)
SAFE_IMAGES = 1525  # of val2017


def build_datasets(
    data: Mapping[str, Any], seed: int = 0
) -> tuple[DetectionDataset, TestSet | None]:
    """Return the training set, and the test set if there is one.

    Args:
        data: the section "data" of a run's configuration.
        seed: seed of a random split.
    """
    drawn = data.get("shapes") or {}
    train = resolve_dataset(data["train"], data["root"], data["train_images"], drawn.get("train"))
    test: DatasetSource | None = None
    if data["split"]:
        part, test = split(train, data["split"], seed)
        train = [part]
    elif data["test"] and (is_named(data["train"]) or not is_named(data["test"])):
        (test,) = resolve_dataset(
            data["test"], data["root"], data["test_images"], drawn.get("test"), training=False
        )
        if data["test"] in MINIVAL:
            check_is_minival(test.annotations, [source.annotations for source in train])
    keys = ("plus_one", "whole_pixels", "keep_empty", "skip_unreadable")
    options = {key: data[key] for key in keys}
    dataset = concatenate([CocoDataset(*source, **options) for source in train])
    if test is None:
        return dataset, None
    # Images without objects are tested on, too.
    return dataset, (CocoDataset(*test, keep_empty=True), test.annotations)


def split(
    sources: Collection[DatasetSource], share: float, seed: int
) -> tuple[DatasetSource, DatasetSource]:
    """Hold out a share of the images, chosen by the seed, as a test set.

    Rows of the same file stay together, so that no image is used for training and testing.

    Returns:
        The images to train on, and those to test on, with their annotations.

    Raises:
        ValueError: the dataset joins several, or has a single image.
    """
    if len(sources) != 1:
        raise ValueError(
            f"data.split cannot divide a dataset that joins {len(sources)}: set data.test"
        )
    (source,) = sources
    content = load_annotations(source.annotations)
    files = sorted({image["file_name"] for image in content["images"]})
    if len(files) < 2:
        raise ValueError("data.split needs at least 2 images")
    number = min(max(1, round(share * len(files))), len(files) - 1)
    held_out = set(random.Random(seed).sample(files, number))

    def part(files: Collection[str]) -> DatasetSource:
        images = [image for image in content["images"] if image["file_name"] in files]
        ids = {image["id"] for image in images}
        rows = [row for row in content["annotations"] if row.get("image_id") in ids]
        return DatasetSource({**content, "images": images, "annotations": rows}, source.image_dir)

    return part(set(files) - held_out), part(held_out)


def is_named(name: str) -> bool:
    """Whether `name` is the name of a dataset, not a path."""
    return name in NAMED_DATASETS or name == "shapes"


def resolve_dataset(
    name: str,
    root: str | Path,
    image_dir: str | Path | None = None,
    drawn: Mapping[str, Any] | None = None,
    training: bool = True,
) -> list[DatasetSource]:
    """Return the annotations and image folder of each part of a dataset.

    Args:
        name: one of `NAMED_DATASETS`; "shapes"; or the path of a dataset in a format that
            `fcos.data.formats` recognises.
        root: the folder that holds the named datasets.
        image_dir: the folder of the images; by default that of the dataset's format.
        drawn: arguments of `fcos.data.shapes.write` for shapes, which are drawn if need be.
        training: if a path has several splits, whether to take the one to train on or to evaluate
            on.

    Raises:
        FileNotFoundError: there is no such dataset; the message names it.
        ValueError: its annotations cannot be read, or it has no such split.
    """
    root = Path(root)
    if name in NAMED_DATASETS:
        return [source(root) for source in NAMED_DATASETS[name]]
    if name == "shapes":
        return [_shapes(root, drawn or {"count": 1000})]
    if not Path(name).exists():
        names = ", ".join([*NAMED_DATASETS, "shapes"])
        raise FileNotFoundError(f"{name} is neither a dataset's file or folder nor one of {names}")
    splits = find_splits(name)
    chosen = choose_split(name, splits, training)
    if chosen is None:
        raise ValueError(f"{name} has no split to evaluate on, only {', '.join(splits)}")
    source = splits[chosen]()
    return [source._replace(image_dir=Path(image_dir)) if image_dir else source]


def check_is_minival(annotations: Annotations, training: Sequence[Annotations] = ()) -> None:
    """Refuse to call a set of images val2017 or minival unless it is.

    APs have been published on all 40,504 images of val2014, most of which were trained on.

    Args:
        annotations: the annotation file to evaluate on, or its content.
        training: the annotation files of training.

    Raises:
        ValueError: it does not have the 5,000 images of minival, or shares some with training.
    """
    content = load_annotations(annotations)
    images = {image["id"] for image in content["images"]}
    name = "these annotations" if isinstance(annotations, Mapping) else str(annotations)
    if len(images) != MINIVAL_IMAGES:
        raise ValueError(
            f"{name}: not val2017/minival, which has {MINIVAL_IMAGES:,} images; this has "
            f"{len(images):,}"
        )
    annotated = sorted({thing["image_id"] for thing in valid_objects(content)})
    digest = hashlib.sha256(" ".join(map(str, annotated)).encode()).hexdigest()
    if digest != MINIVAL_ANNOTATED:
        raise ValueError(f"{name}: 5,000 images, but not those of val2017/minival")
    for source in training:
        shared = images & {image["id"] for image in load_annotations(source)["images"]}
        if shared:
            raise ValueError(
                f"{name}: {len(shared):,} of its images were trained on, first {min(shared)}"
            )


def coco_safe(annotations: Annotations) -> dict[str, Any]:
    """Return the images whose license allows redistribution, with their objects.

    The rule is that of MLCommons, by which val2017 has 1,525 such images
    (`vision/classification_and_detection/yolo/create_safe_annotations.py` of mlcommons/inference).

    Raises:
        ValueError: the annotations do not name licenses, no image has such a license, or there are
            5,000 images, of which not 1,525 have one.
    """
    content = load_annotations(annotations, labelled=False)
    name = "these annotations" if isinstance(annotations, Mapping) else str(annotations)
    rows = content.get("licenses")
    licenses = [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []
    safe = [
        row.get("id")
        for row in licenses
        if any(text in str(row.get("url", "")).lower() for text in SAFE_LICENSES)
    ]
    images = [image for image in content["images"] if image.get("license") in safe]
    if not images:
        raise ValueError(f"{name}: no image has a license that allows redistribution")
    if len(content["images"]) == MINIVAL_IMAGES and len(images) != SAFE_IMAGES:
        raise ValueError(
            f"{name}: {len(images):,} images may be redistributed, but {SAFE_IMAGES:,} of val2017"
        )
    ids = {image["id"] for image in images}
    objects = [thing for thing in content["annotations"] if thing.get("image_id") in ids]
    return {**content, "images": images, "annotations": objects}


def _coco_safe(root: Path) -> DatasetSource:
    annotations, image_dir = _coco("instances_val2017", "val2017")(root)
    return DatasetSource(coco_safe(annotations), image_dir)


def _coco(annotations: str, images: str) -> Callable[[Path], DatasetSource]:
    def source(root: Path) -> DatasetSource:
        file, image_dir = root / "annotations" / f"{annotations}.json", root / images
        for path in (file, image_dir):
            if not path.exists():
                raise FileNotFoundError(
                    f"{path} is missing: the root folder of COCO holds annotations/, with its "
                    f"JSON files, and {images}/, with its images"
                )
        return DatasetSource(file, image_dir)

    return source


def _voc(year: str, image_set: str, difficult: bool) -> Callable[[Path], DatasetSource]:
    """Train on `difficult` objects, but do not measure them, as in the centre-ness-free system."""

    def source(root: Path) -> DatasetSource:
        annotations = voc_annotations(root / year, image_set)
        if difficult:
            for thing in annotations["annotations"]:
                thing["iscrowd"] = 0
        return DatasetSource(annotations, root / year / "JPEGImages")

    return source


def _shapes(root: Path, drawn: Mapping[str, Any]) -> DatasetSource:
    classes = "-".join(drawn.get("classes", shapes.CLASSES))
    keys = [key for key in ("size", "count", "seed", "most") if key in drawn]
    numbers = "-".join(f"{key}{drawn[key]}" for key in keys)
    annotations = shapes.write(root / f"shapes-{classes}-{numbers}", **drawn)
    return DatasetSource(annotations, annotations.parent / "images")


_VOC_2007 = _voc("VOC2007", "trainval", difficult=True)
_VOC_2012 = _voc("VOC2012", "trainval", difficult=True)

# For each named dataset, functions of the root folder that return its parts.
NAMED_DATASETS: dict[str, list[Callable[[Path], DatasetSource]]] = {
    "coco_2017_train": [_coco("instances_train2017", "train2017")],
    "coco_2017_val": [_coco("instances_val2017", "val2017")],
    "coco_2017_val_rem": [_coco("instances_valrem", "val2017")],
    "coco_2017_val_safe": [_coco_safe],
    "coco_2014_trainval35k": [
        _coco("instances_train2014", "train2014"),
        _coco("instances_valminusminival2014", "val2014"),
    ],
    "coco_2014_minival": [_coco("instances_minival2014", "val2014")],
    "voc_2007_trainval": [_VOC_2007],
    "voc_2007_test": [_voc("VOC2007", "test", difficult=False)],
    "voc_2012_trainval": [_VOC_2012],
    "voc_0712_trainval": [_VOC_2007, _VOC_2012],
}
