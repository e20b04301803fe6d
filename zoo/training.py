"""Training a model of the zoo: its architecture, and the weights that training starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fcos import Detector
from fcos.train import run
from fcos.train.settings import check_training
from zoo import formats
from zoo.checkpoint import file_of, read_checkpoint
from zoo.config import build_detector, check_detector
from zoo.download import fetch_weights
from zoo.imagenet import load_backbone
from zoo.registry import Card, card

Config = Mapping[str, Any]


def train(entry: Card, config: Config, device: torch.device, resume: bool) -> int:
    """Train a model of the zoo as configured, see `fcos.train.run.train`."""
    check_training(config, entry.config)
    check_detector(config)
    config, note = resolved(config, entry.config)

    def make_detector(classes: Sequence[str]) -> Detector:
        detector = build_detector({**config, "classes": list(classes)})
        detector.card = entry
        return detector

    def initialize(detector: Detector) -> str:
        return "\n".join([*note, initialize_weights(detector, config)])

    return run.train(entry.name, config, make_detector, initialize, device, resume)


def resolved(config: Config, recipe: Config) -> tuple[Config, list[str]]:
    """The settings for the epochs and the batch that were asked for, and lines that say so."""
    return for_batch(for_epochs(config, recipe["schedule"]), recipe["solver"]["batch"])


def for_epochs(config: Config, recipe: Config) -> Config:
    """The settings for `epochs`, with the recipe's steps at the same parts of the training.

    Steps that are not the recipe's stay as they are.

    Raises:
        ValueError: the schedule's length is given as well.
    """
    epochs, schedule = config["epochs"], config["schedule"]
    if epochs is None:
        return config
    if any(schedule.get(key) != recipe.get(key) for key in ("iterations", "epochs")):
        raise ValueError("epochs and schedule.iterations are both given: leave one of them out")
    changed = {**schedule, "iterations": None, "epochs": epochs}
    if schedule == recipe:
        length = recipe.get("epochs") or recipe["iterations"]
        steps = recipe["step_epochs"] if recipe.get("epochs") else recipe["steps"]
        changed |= {"steps": None, "step_epochs": [epochs * step / length for step in steps]}
    return {**config, "epochs": None, "schedule": changed}


def for_batch(config: Config, recipe: int) -> tuple[Config, list[str]]:
    """The settings for a batch that is not the recipe's, and a line that says so.

    With `solver.scale_lr` the rate grows as the batch does (arXiv:1706.02677).
    """
    solver = config["solver"]
    batch, rate = solver["batch"], solver["base_lr"]
    if batch == recipe:
        return config, []
    scaled = rate * batch / recipe
    if solver["scale_lr"]:
        line = f"solver.base_lr={scaled:g}: {rate:g} is for batches of {recipe}, not {batch}"
        done = {"base_lr": scaled, "scale_lr": False}
        return {**config, "solver": {**solver, **done}}, [line]
    return config, [
        f"solver.batch={batch} is not the recipe's {recipe}, which solver.base_lr={rate:g} is for: "
        f"solver.scale_lr=true would make it {scaled:g}"
    ]


def initialize_weights(detector: Detector, config: Config) -> str:
    """Load the weights that training starts from; says which they are."""
    init = config["init"]
    if init["checkpoint"]:
        return load_pretrained(detector, init["checkpoint"], config)
    backbone, imagenet = init["backbone"], config.get("imagenet")
    if backbone == "auto":
        if imagenet is None:
            return "no ImageNet weights are known for this model: started from random weights"
        backbone = "imagenet"
    if not backbone:
        return "started from random weights"
    load_backbone(detector, backbone)
    source = imagenet if backbone == "imagenet" else backbone
    return f"started the backbone from {source}, everything else from random weights"


def load_pretrained(detector: Detector, source: str, config: Config) -> str:
    """Copy the weights of a model, a file or an address into a detector.

    If the classes differ, only those rows of the class predictor are copied whose classes have the
    same name.

    Returns:
        What was copied, for the log.
    """
    file = Path(source)
    # No model of the zoo is called like a file.
    is_file = file.name != source or bool(file.suffix) or file.is_file()
    path = file_of(source) if is_file else fetch_weights(card(source))
    checkpoint = read_checkpoint(path)
    names = formats.translate(checkpoint.state, detector)
    predictor = [key for key, name in names.items() if name == "head.cls_logits.bias"]
    if not predictor:
        raise ValueError(
            f"{path} has no class predictor: it is not a checkpoint of {config['family']}"
        )
    num_classes = len(checkpoint.state[predictor[0]])
    donor = build_detector(config, num_classes)
    formats.load_state(donor, checkpoint.state)
    pretrained = donor.state_dict()

    classes = checkpoint.classes or (config if is_file else card(source).config)["classes"]
    if len(classes) != num_classes:
        classes = (None,) * num_classes  # the file does not name its classes
    if tuple(classes) == detector.classes:
        detector.load_state_dict(pretrained)
        return f"started from {path}: all {len(pretrained)} tensors, the classes are the same"
    own = {k: v for k, v in detector.state_dict().items() if k.startswith("head.cls_logits.")}
    shared = [name for name in detector.classes if name in classes]
    to_rows = [detector.classes.index(name) for name in shared]
    from_rows = [classes.index(name) for name in shared]
    for key, tensor in own.items():
        tensor[to_rows] = pretrained[key].to(tensor)[from_rows]
    detector.load_state_dict({**pretrained, **own})
    return (
        f"started from {path}: {len(pretrained) - len(own)} tensors copied; the class predictor "
        f"is initialised again, from {num_classes} to {len(detector.classes)} classes"
        + (f", except for the {len(shared)} of the same name" if shared else "")
    )
