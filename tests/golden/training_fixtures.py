"""Everything that the tests of training numbers ask of the project, in one place.

The tests compare plain numbers; when the project's modules move, only this file changes.
"""

from __future__ import annotations

import gzip
import json
import random
import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fcos import Detector
from fcos.coco_eval import FIGURES, evaluate_detections, to_coco_results
from fcos.data.dataset import DetectionDataset
from fcos.data.registry import build_datasets
from fcos.data.transforms import Transform, build_transforms
from fcos.train.metrics import read
from fcos.train.trainer import Trainer
from zoo import formats
from zoo.config import build_detector, compose_entry
from zoo.golden import draw_boxes, draw_image, draw_tensor
from zoo.pretrained import load_checkpoint
from zoo.registry import card
from zoo.training import make_trainer

FOLDER = Path(__file__).parent / "training"

Group = tuple[float, float]  # learning rate, weight decay


def load(name: str) -> Any:
    """The content of a fixture, JSON or compressed JSON."""
    content = (FOLDER / name).read_bytes()
    return json.loads(gzip.decompress(content) if name.endswith(".gz") else content)


class Solver(NamedTuple):
    """An entry's optimiser and learning-rate schedule."""

    groups: dict[str, Group | None]  # by published key; None for what is not trained
    unnamed: set[str]  # parameters of ours that no published key stands for
    factor: Any  # iteration -> learning rate over base learning rate
    iterations: int
    nesterov: bool


def solver(entry: str, keys: list[str]) -> Solver:
    """The optimiser and schedule that training an entry starts with.

    Args:
        entry: name of an entry.
        keys: keys of the published checkpoint to report the groups of.
    """
    config = compose_entry(entry)
    detector = build_detector(config).train()
    trainer = _trainer(entry, detector, config, Path())
    group_of = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in trainer.optimizer.param_groups
        for parameter in group["params"]
    }
    parameters = dict(detector.named_parameters())
    names = formats.translate(keys, detector)
    return Solver(
        groups={key: group_of.get(id(parameters[names[key]])) for key in keys},
        unnamed=parameters.keys() - set(names.values()),
        factor=trainer.schedule,
        iterations=trainer.schedule.iterations,
        nesterov=trainer.optimizer.param_groups[0]["nesterov"],
    )


class Run(NamedTuple):
    """What a short training run computed."""

    records: list[dict[str, Any]]  # losses, gradient norm and learning rate of each step
    movements: dict[str, float]  # published key -> L2 norm of the tensor's movement


def train(fixture: Mapping[str, Any]) -> Run:
    """Train an entry on a trajectory fixture's images, from its weights and by its schedule."""
    entry, count = fixture["entry"], fixture["boxes_per_image"]
    config = compose_entry(
        entry,
        [
            f"solver.base_lr={fixture['base_lr']}",
            f"solver.warmup.iterations={fixture['warmup_iterations']}",
            f"schedule.iterations={fixture['iterations']}",
            f"schedule.steps={fixture['steps']}",
            "solver.accumulate=1",
            "run.log_every=1",
            "run.loggers=[]",
        ],
    )
    weights = {t["key"]: draw_tensor(**t) for t in load(f"tensors_{entry}.json.gz")}
    detector = build_detector(config)
    load_checkpoint(detector, weights)
    detector.train()
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}

    def batches(start: int) -> Iterator[tuple[list[Tensor], list[dict[str, Tensor]]]]:
        for step in range(start, fixture["iterations"]):
            names = [f"{entry}/parity/{step}/{i}" for i in range(len(fixture["images"]))]
            drawn = list(zip(names, fixture["images"], strict=True))
            images = [draw_image(name, *size) for name, size in drawn]
            yield images, [draw_boxes(name, count, *size, num_classes=80) for name, size in drawn]

    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(entry, detector, config, Path(folder))
        trainer.batches = batches
        trainer.run()
        records = list(read(Path(folder) / "metrics.jsonl"))

    names = formats.translate(formats.prepare(weights), detector)
    after = detector.state_dict()
    moved = {
        key: (after[name] - before[name]).double().norm() for key, name in names.items() if name
    }

    def movement(published: str) -> float:
        # A tensor that we keep in parts has the keys KEY.0, KEY.1, ...
        parts = [d for key, d in moved.items() if f"{key}.".startswith(f"{published}.")]
        return float(torch.tensor(parts).norm()) if parts else 0.0

    return Run(records, {key: movement(key) for key in fixture["update_norms"]})


def training_set(entry: str, annotations: Path, images: Path) -> DetectionDataset:
    """The training images of an annotation file, as an entry's recipe reads them."""
    config = compose_entry(entry, [f"data.train={annotations}", f"data.train_images={images}"])
    return build_datasets({**config["data"], "test": None})[0]


def augment(
    entry: str, dataset: DetectionDataset, index: int, size: int, flip: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image (h, w, 3), boxes and labels after an entry's augmentation with fixed choices."""
    augmentation = _augmentation(entry, size, flip)
    image, target = augmentation(*dataset.open(index), random.Random(0))
    return np.asarray(image), target["boxes"], target["labels"]


def coco_figures(
    detections: Mapping[str, np.ndarray], annotations: Mapping[str, Any], plus_one: bool
) -> dict[str, float]:
    """The twelve COCO figures of detections that are given image by image."""
    category_ids = sorted(category["id"] for category in annotations["categories"])
    ends = np.cumsum(detections["counts"])[:-1]
    columns = [np.split(detections[key], ends) for key in ("boxes", "scores", "labels")]
    results = []
    for image_id, *columns_of_image in zip(detections["ids"].tolist(), *columns, strict=True):
        tensors = [torch.from_numpy(column) for column in columns_of_image]
        results += to_coco_results(image_id, *tensors, category_ids, plus_one)
    figures = evaluate_detections(results, annotations)
    return {name: figures[name] for name in FIGURES}


@cache
def _augmentation(entry: str, size: int, flip: bool) -> Transform:
    overrides = [f"augmentation.shortest=[{size}]", f"data.flip={int(flip)}"]
    return build_transforms(compose_entry(entry, overrides))


def _trainer(entry: str, detector: Detector, config: Mapping[str, Any], folder: Path) -> Trainer:
    """The trainer as the command makes it, with a dataset of one step whose images are not read."""
    detector.card = card(entry)
    number = config["solver"]["batch"]
    dataset = DetectionDataset(
        classes=detector.classes,
        category_ids=(),
        files=[""] * number,
        image_ids=np.arange(number),
        sizes=np.ones((number, 2)),
        boxes=np.zeros((0, 4)),
        labels=np.zeros(0),
        ends=np.zeros(number, dtype=int),
    )
    return make_trainer(entry, detector, dataset, None, config, folder)
