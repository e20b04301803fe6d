"""The images of a run: its training and test set, their augmentation, batches and mosaics."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from fcos.boxes import Size
from fcos.data.annotations import DatasetSource, load_annotations
from fcos.data.dataset import CocoDataset, DetectionDataset, concatenate
from fcos.data.loader import Batch, Loader, TrainingSampler
from fcos.data.registry import (
    MINIVAL,
    check_is_minival,
    is_named,
    resolve_dataset,
)
from fcos.data.transforms import Compose, HorizontalFlip, ResizeShortestSide, SquareView
from fcos.detector import Detector
from fcos.drawing import draw_mosaic
from fcos.train import distributed

Config = Mapping[str, Any]
TestSet = tuple[DetectionDataset, Any]  # the images, and the annotations to measure with
TILES = 16  # images of a mosaic
SCORE = 0.3  # of the detections that are drawn


def build_datasets(data: Config, seed: int = 0) -> tuple[DetectionDataset, TestSet | None]:
    """The training set, and the test set if there is one that goes with it.

    Args:
        data: the section of the configuration.
        seed: of a split.
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


def largest_size(augmentation: Config, dataset: DetectionDataset) -> Size:
    """(height, width) of the largest images that augmentation makes, as landscape images."""
    if "square" in augmentation:
        return augmentation["square"], augmentation["square"]
    if "longest" in augmentation:
        shortest = augmentation.get("shortest") or augmentation["shortest_range"]
        return max(shortest), augmentation["longest"]
    height, width = dataset.sizes.max(axis=0).tolist()
    return height, width


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
    return _first_drawn(iter(loader), dataset.classes, folder / "first_batch.jpg")


def _first_drawn(batches: Iterator[Batch], classes: Sequence[str], path: Path) -> Iterator[Batch]:
    """The same batches; the first is drawn as the network gets it, with its boxes."""
    for number, (images, targets) in enumerate(batches):
        if number == 0:
            tiles = []
            for image, target in zip(images[:TILES], targets[:TILES], strict=True):
                picture = Image.fromarray(image.permute(1, 2, 0).numpy())
                names = [classes[label] for label in target["labels"].tolist()]
                tiles.append((picture, target["boxes"], target["labels"], names))
            draw_mosaic(tiles, path)
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
    draw_mosaic(tiles, path)
