"""The images of a run: its training and test set, their augmentation and their batches."""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from fcos.data.annotations import DatasetSource, load_annotations
from fcos.data.dataset import DetectionDataset
from fcos.data.loader import Batch, Loader
from fcos.data.registry import (
    MINIVAL,
    check_is_minival,
    is_named,
    resolve_dataset,
    test_set,
    training_set,
)
from fcos.data.sampler import TrainingSampler
from fcos.data.transforms import Compose, HorizontalFlip, ResizeShortestSide, SquareView
from fcos.train import distributed, mosaic

Config = Mapping[str, Any]
TestSet = tuple[DetectionDataset, Any]  # the images, and the annotations to measure with
SPLIT_FILE = "test_split.json"  # in the folder of the run: the annotations of the images held out


def build_datasets(
    data: Config, seed: int = 0, held_out: Collection[int] | None = None
) -> tuple[DetectionDataset, TestSet | None]:
    """The training set, and the test set if there is one that goes with it.

    Args:
        data: the section of the configuration.
        seed: of a split.
        held_out: ids of the images that `data.split` held out before; None holds out others.
    """
    drawn = data.get("shapes") or {}
    sources = resolve_dataset(data["train"], data["root"], data["train_images"], drawn.get("train"))
    keys = ("plus_one", "whole_pixels", "keep_empty", "skip_unreadable")
    options = {key: data[key] for key in keys}
    if data.get("split"):
        training, held = split(sources, data["split"], seed, held_out)
        return training_set([training], **options), test_set([held])
    dataset = training_set(sources, **options)
    if data["test"] is None or (not is_named(data["train"]) and is_named(data["test"])):
        return dataset, None
    measured = resolve_dataset(
        data["test"], data["root"], data["test_images"], drawn.get("test"), training=False
    )
    if data["test"] in MINIVAL:
        check_is_minival(measured[0].annotations, [source.annotations for source in sources])
    return dataset, test_set(measured)


def split(
    sources: Collection[DatasetSource],
    share: float,
    seed: int,
    held_out: Collection[int] | None = None,
) -> tuple[DatasetSource, DatasetSource]:
    """Hold out a share of the images, chosen by the seed, as a test set.

    Rows of the same file stay together, so that no image is trained on and tested on.

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
    if held_out is None:
        files = sorted({image["file_name"] for image in content["images"]})
        if len(files) < 2:
            raise ValueError("data.split needs at least 2 images")
        number = min(max(1, round(share * len(files))), len(files) - 1)
        chosen = set(random.Random(seed).sample(files, number))
        held_out = [row["id"] for row in content["images"] if row["file_name"] in chosen]
    test = set(held_out)
    return (
        DatasetSource(_part(content, test, inside=False), source.image_dir),
        DatasetSource(_part(content, test, inside=True), source.image_dir),
    )


def _part(content: Config, ids: Collection[int], inside: bool) -> dict[str, Any]:
    """The annotations of the images that have one of the ids, or of the others."""
    images = [image for image in content["images"] if (image["id"] in ids) == inside]
    kept = {image["id"] for image in images}
    rows = [row for row in content["annotations"] if row.get("image_id") in kept]
    return {**content, "images": images, "annotations": rows}


def recorded_split(folder: Path) -> list[int] | None:
    """The ids of the images that a run held out; None if it held out none."""
    path = folder / SPLIT_FILE
    if not path.is_file():
        return None
    return [image["id"] for image in load_annotations(path)["images"]]


def record_split(folder: Path, test: TestSet) -> None:
    """Write the annotations of the held-out images into the folder of a run."""
    (folder / SPLIT_FILE).write_text(json.dumps(test[1]))


def remarks(data: Config, dataset: DetectionDataset, test: TestSet | None) -> list[str]:
    """Lines that say what of the annotations is not trained on, and that no AP will come."""
    lines = []
    if dataset.counts:
        found = ", ".join(f"{number} x {kind}" for kind, number in dataset.counts.most_common())
        lines.append(f"{data['train']}: {found}; `fcos-zoo data check` names the files")
    if test is None:
        lines.append(
            "no test set goes with it, so that no AP will be measured: set data.test, or "
            "data.split=0.1 to hold out a tenth of the images"
        )
    return lines


def batches(
    dataset: DetectionDataset, config: Config, device: torch.device, folder: Path, start: int
) -> Iterable[Batch]:
    """This process's share of every step's images from step `start` on, augmented.

    The first batch of a run is drawn into its folder.
    """
    sampler = TrainingSampler(
        dataset.portrait.tolist(),
        config["solver"]["batch"],
        config["run"]["seed"],
        config["data"]["aspect_ratio_group_size"],
        distributed.rank(),
        distributed.world(),
        start,
    )
    loader = Loader(
        dataset,
        sampler,
        build_transforms(config),
        config["data"]["workers"],
        pin_memory=device.type == "cuda",
    )
    if start or distributed.rank() != 0:
        return loader
    return mosaic.first_drawn(iter(loader), dataset.classes, folder / "first_batch.jpg")


def build_transforms(config: Config) -> Compose:
    """The augmentation of a recipe."""
    augmentation, data = config["augmentation"], config["data"]
    flip = HorizontalFlip(data["flip"], data["plus_one"])
    if "square" in augmentation:
        view = SquareView(augmentation["square"], tuple(augmentation["scale_range"]))
        return Compose([flip, view])
    if "longest" not in augmentation:
        return Compose([flip])
    ranged = "shortest_range" in augmentation
    resize = ResizeShortestSide(
        augmentation["shortest_range" if ranged else "shortest"],
        augmentation["longest"],
        "range" if ranged else "choice",
        config["resize"].get("rounding", "nearest"),
        antialias=config.get("detector", {}).get("resize_method", "pil") == "pil",
    )
    # Flipping first is the same and moves fewer pixels, except for boxes that end on their last
    # pixel: maskrcnn-benchmark means one of the resized image.
    return Compose([resize, flip] if data["plus_one"] else [flip, resize])
