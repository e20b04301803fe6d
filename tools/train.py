"""Train an entry by its published recipe, on its dataset or yours.

One process: `fcos-zoo train ENTRY`; eight GPUs: `torchrun --nproc-per-node 8 -m tools.train
entry=ENTRY`, or `torchrun --nproc-per-node 8 --no-python fcos-zoo train ENTRY`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console

import zoo
from fcos import Detector
from fcos.boxes import Size
from fcos.data import sets
from fcos.data.dataset import DetectionDataset
from fcos.data.loader import Batch, Loader
from fcos.data.named import check_is_minival
from fcos.data.sampler import TrainingSampler
from fcos.data.transforms import (
    Compose,
    HorizontalFlip,
    ResizeShortestSide,
    SquareView,
    Transform,
)
from fcos.train import distributed
from fcos.train.evaluation import evaluate_detector
from fcos.train.memory import fitting_parts
from fcos.train.recompute import recompute_activations
from fcos.train.solver import Schedule, make_optimizer
from fcos.train.trainer import DTYPES, Trainer
from zoo import formats
from zoo.build import assemble, fetch_weights
from zoo.card import compose_entry
from zoo.imagenet import load_backbone
from zoo.weights import read

Config = Mapping[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the entry's configuration with overrides and train it."""
    parser = argparse.ArgumentParser(
        prog="fcos-zoo train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="`fcos-zoo info ENTRY` shows all that can be overridden. Your own dataset:\n"
        "  fcos-zoo train FCOS_R_50_1x data.train=train.json data.test=val.json \\\n"
        "      run.weights=FCOS_R_50_1x schedule.iterations=5000 schedule.steps=[4000]",
    )
    parser.add_argument("--resume", action="store_true", help="go on where the run stopped, if any")
    parser.add_argument("override", nargs="*", help="ENTRY or entry=ENTRY, and any KEY=VALUE")
    options = parser.parse_intermixed_args(arguments)
    names = [o.removeprefix("entry=") for o in options.override if _names_entry(o)]
    if len(names) != 1:
        parser.error(f"name one entry, not {len(names)}: `fcos-zoo list` shows them")
    overrides = [o for o in options.override if not _names_entry(o)]
    card = zoo.card(names[0])
    config = compose_entry(card.name, overrides)
    with distributed.process_group(config["run"]["device"]) as device:
        # An elastic restart has the arguments of the first start, and only the machine where a
        # process died counts it.
        restarts = distributed.maximum(int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)))
        received = train(card, config, device, options.resume or restarts > 0)
    return 128 + received if received else 0


def train(card: zoo.Card, config: Config, device: torch.device, resume: bool) -> int:
    """Train as configured; returns the number of the signal that stopped it, or 0."""
    solver, data, run = config["solver"], config["data"], config["run"]
    folder = Path(run["folder"] or Path("runs") / card.name)
    say = Console(stderr=True, quiet=distributed.rank() != 0, soft_wrap=True).print
    if not resume and any((folder / "checkpoints").glob("*.pth")):
        raise FileExistsError(
            f"{folder} holds a run: go on with --resume, or choose another with run.folder=…"
        )
    torch.manual_seed(run["seed"])
    with distributed.leader_first():
        dataset, test = datasets(data)
    detector = assemble({**config, "classes": list(dataset.classes)}).to(device).train()
    detector.card = card
    if not resume:
        say(start(detector, config), markup=False)
    if solver["channels_last"]:
        detector.to(memory_format=torch.channels_last)
    if solver["recompute"]:
        recompute_activations(detector)
    if solver["compile"]:
        for part in (detector.backbone, detector.pyramid, detector.head):
            part.compile(dynamic=True)  # type: ignore[union-attr]

    share = _share(solver["batch"])
    epoch = len(dataset) / solver["batch"]
    accumulate = solver["accumulate"]
    if accumulate == "auto":
        size = largest_size(config["augmentation"], dataset)
        accumulate = fitting_parts(detector, share, size, DTYPES[solver["precision"]])
    keys = ("momentum", "weight_decay", "norm_weight_decay", "bias_lr_factor", "bias_weight_decay")
    trainer = Trainer(
        detector,
        partial(batches, dataset, config, device),
        make_optimizer(
            detector, solver["base_lr"], fused=solver["fused"], **{key: solver[key] for key in keys}
        ),
        schedule(config, epoch),
        folder,
        card.name,
        epoch=epoch,
        accumulate=accumulate,
        precision=solver["precision"],
        clip_norm=solver["clip_norm"],
        ema=solver["ema"],
        nan=solver["nan"],
        evaluate=partial(_measure, test, data["workers"]) if test else None,
        log_every=run["log_every"],
        checkpoint_every=run["checkpoint_every"],
        evaluate_every=run["evaluate_every"] or max(round(epoch), 1),
        keep=run["keep"],
        loggers=run["loggers"],
        config=config,
    )
    resumed = resume and trainer.resume()
    say(
        f"{card.name}: {len(dataset)} images of {len(dataset.classes)} classes, batches of "
        f"{solver['batch']} on {distributed.world()} x {device.type} in {accumulate} parts, from "
        f"iteration {trainer.iteration if resumed else 0} in {folder}"
    )
    if distributed.rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(dict(config), sort_keys=False))
    return trainer.run()


Test = tuple[DetectionDataset, Any]


def datasets(data: Config) -> tuple[DetectionDataset, Test | None]:
    """What to train on, and what to measure on, if anything.

    The recipe's own test set is not measured when the training set is another.
    """
    drawn = data.get("shapes", {})
    found = sets.parts(data["train"], data["root"], data["train_images"], drawn.get("train"))
    keys = ("plus_one", "whole_pixels", "keep_empty", "skip_unreadable")
    dataset = sets.training_set(found, **{key: data[key] for key in keys})
    own, named = Path(data["train"]).is_file(), data["test"] and not Path(data["test"]).is_file()
    if data["test"] is None or (own and named):
        return dataset, None
    measured = sets.parts(data["test"], data["root"], data["test_images"], drawn.get("test"))
    if data["test"] in ("coco_2017_val", "coco_2014_minival"):
        check_is_minival(measured[0].annotations, [part.annotations for part in found])
    return dataset, sets.test_set(measured)


def batches(
    dataset: DetectionDataset, config: Config, device: torch.device, start: int
) -> Iterable[Batch]:
    """This process's share of every step's images from step `start` on, augmented."""
    sampler = TrainingSampler(
        dataset.portrait.tolist(),
        config["solver"]["batch"],
        config["run"]["seed"],
        config["data"]["group"],
        distributed.rank(),
        distributed.world(),
        start,
    )
    return Loader(
        dataset,
        sampler,
        transforms(config),
        config["data"]["workers"],
        pin_memory=device.type == "cuda",
    )


def transforms(config: Config) -> Compose:
    """The entry's augmentation."""
    how, data = config["augmentation"], config["data"]
    steps: list[Transform] = [HorizontalFlip(data["flip"], data["plus_one"])]
    if "square" in how:
        steps.insert(0, SquareView(how["square"], tuple(how["scale_range"])))
    elif "longest" in how:
        resize = partial(ResizeShortestSide, longest=how["longest"])
        rounding = config["resize"].get("rounding", "nearest")
        if "shortest_range" in how:
            steps.insert(0, resize(how["shortest_range"], sample="range", rounding=rounding))
        else:
            steps.insert(0, resize(how["shortest"], rounding=rounding))
    return Compose(steps)


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
    warmup = solver["warmup"]
    return Schedule(
        times.get("iterations") or round(times["epochs"] * epoch),
        times.get("steps") or [round(step * epoch) for step in times.get("step_epochs", ())],
        solver["gamma"],
        warmup["method"],
        warmup["iterations"],
        warmup["factor"],
    )


def start(detector: Detector, config: Config) -> str:
    """Give the detector the weights that training starts from; says which."""
    run = config["run"]
    if run["weights"]:
        return start_from(detector, run["weights"], config)
    if not run["backbone"]:
        return "started from random weights"
    load_backbone(detector, run["backbone"])
    which = config.get("imagenet") if run["backbone"] == "imagenet" else run["backbone"]
    return f"started the backbone from {which}, all else from random weights"


def start_from(detector: Detector, source: str, config: Config) -> str:
    """Copy the weights of a file or an entry; a predictor of other classes stays as initialised.

    Returns:
        What was done, for the log.
    """
    path = Path(source) if Path(source).is_file() else fetch_weights(zoo.card(source))
    content = read(path)
    state = formats.unwrap(content)
    names = formats.translate(state, detector)
    head = [key for key, name in names.items() if name == "head.cls_logits.bias"]
    if not head:
        raise ValueError(
            f"{path} has no class predictor: it is no checkpoint of {config['family']}"
        )
    donor = assemble(config, len(state[head[0]]))
    formats.load_state(donor, state)
    known = content.get("classes") or (
        config["classes"] if Path(source).is_file() else zoo.card(source).config["classes"]
    )
    kept = donor.state_dict()
    if tuple(known) == detector.classes:
        detector.load_state_dict(kept)
        return f"started from {path}: all {len(kept)} tensors, the classes are the same"
    own = {k: v for k, v in detector.state_dict().items() if k.startswith("head.cls_logits.")}
    detector.load_state_dict({**kept, **own})
    return (
        f"started from {path}: {len(kept) - len(own)} tensors kept; the class predictor is "
        f"initialised anew, from {len(known)} to {len(detector.classes)} classes"
    )


def _measure(test: Test, workers: int, detector: Detector) -> dict[str, Any]:
    return evaluate_detector(detector, *test, workers=workers)


def _share(batch: int) -> int:
    world = distributed.world()
    if batch % world:
        raise ValueError(
            f"solver.batch={batch} images cannot be shared equally by {world} processes"
        )
    return batch // world


def _names_entry(argument: str) -> bool:
    return "=" not in argument or argument.startswith("entry=")


if __name__ == "__main__":
    sys.exit(main())
