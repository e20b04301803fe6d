"""An entry's recipe, from its configuration to the objects that training is made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fcos.boxes import Size
from fcos.data.dataset import DetectionDataset
from fcos.data.registry import (
    MINIVAL,
    check_is_minival,
    resolve_dataset,
    test_set,
    training_set,
)
from fcos.data.transforms import (
    Compose,
    HorizontalFlip,
    ResizeShortestSide,
    SquareView,
)
from fcos.train.solver import Schedule

Config = Mapping[str, Any]
Test = tuple[DetectionDataset, Any]


def datasets(data: Config) -> tuple[DetectionDataset, Test | None]:
    """What to train on, and what to measure on, if anything.

    The recipe's own test set is not measured when the training set is another.
    """
    drawn = data.get("shapes", {})
    found = resolve_dataset(data["train"], data["root"], data["train_images"], drawn.get("train"))
    keys = ("plus_one", "whole_pixels", "keep_empty", "skip_unreadable")
    dataset = training_set(found, **{key: data[key] for key in keys})
    own, named = Path(data["train"]).is_file(), data["test"] and not Path(data["test"]).is_file()
    if data["test"] is None or (own and named):
        return dataset, None
    measured = resolve_dataset(data["test"], data["root"], data["test_images"], drawn.get("test"))
    if data["test"] in MINIVAL:
        check_is_minival(measured[0].annotations, [source.annotations for source in found])
    return dataset, test_set(measured)


def transforms(config: Config) -> Compose:
    """The entry's augmentation."""
    how, data = config["augmentation"], config["data"]
    flip = HorizontalFlip(data["flip"], data["plus_one"])
    if "square" in how:
        return Compose([flip, SquareView(how["square"], tuple(how["scale_range"]))])
    if "longest" not in how:
        return Compose([flip])
    ranged = "shortest_range" in how
    resize = ResizeShortestSide(
        how["shortest_range" if ranged else "shortest"],
        how["longest"],
        "range" if ranged else "choice",
        config["resize"].get("rounding", "nearest"),
        antialias=config.get("detector", {}).get("resize_method", "pil") == "pil",
    )
    # To mirror first is the same and moves fewer pixels, except for boxes that end on their last
    # pixel: maskrcnn-benchmark means one of the resized image.
    return Compose([resize, flip] if data["plus_one"] else [flip, resize])


def largest_size(how: Config, dataset: DetectionDataset) -> Size:
    """(height, width) of the largest images that augmentation makes."""
    if "square" in how:
        return how["square"], how["square"]
    if "longest" in how:
        return max(how.get("shortest") or how["shortest_range"]), how["longest"]
    height, width = dataset.sizes.max(axis=0).tolist()
    return height, width


def schedule(config: Config, epoch: float) -> Schedule:
    """The recipe's learning rates; `epoch` iterations are one epoch."""
    times, solver = config["schedule"], config["solver"]
    warmup, iterations, steps = solver["warmup"], times["iterations"], times["steps"]
    return Schedule(
        round(times["epochs"] * epoch) if iterations is None else iterations,
        [round(step * epoch) for step in times["step_epochs"]] if steps is None else steps,
        solver["gamma"],
        warmup["method"],
        warmup["iterations"],
        warmup["factor"],
    )
