"""Train a model of the zoo: check its settings and data, build its detector, run the loop.

The configuration is a plain mapping; `configs/training/defaults.yaml` describes its keys.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any

import torch
import yaml
from torch.nn.modules.batchnorm import _BatchNorm

from backbones.layers import EvalBatchNorm2d
from fcos import Detector
from fcos.coco_eval import percent
from fcos.data.dataset import DetectionDataset
from fcos.data.loader import Batch, Loader, TrainingSampler
from fcos.data.registry import TestSet, build_datasets
from fcos.data.transforms import build_transforms, largest_size
from fcos.drawing import draw_batch, draw_detections
from fcos.evaluate import evaluate_detector, examine
from fcos.settings import check_training
from fcos.text import TextConsole
from fcos.train import distributed
from fcos.train.checkpoint import Checkpoints, claim, fingerprint
from fcos.train.memory import checkpoint_activations, fitting_accumulation, micro_batch_size
from fcos.train.metrics import missing, read
from fcos.train.optim import build_schedule, make_optimizer, resolved
from fcos.train.trainer import Trainer
from zoo.config import build_detector, check_detector
from zoo.initial_weights import initialize_weights
from zoo.registry import Card

Config = Mapping[str, Any]


def train(entry: Card, config: Config, device: torch.device, resume: bool) -> int:
    """Train a model of the zoo as configured.

    Args:
        entry: the card of the model.
        config: the configuration of the run.
        device: the device of this process.
        resume: whether to continue a run in the same folder.

    Returns:
        0, or the number of the signal that stopped it.

    Raises:
        FileExistsError: the folder holds a run and `resume` is False.
        ValueError: a setting is wrong.
    """
    check_training(config)
    check_detector(config)
    config, notes = resolved(config, entry.config)
    # Refuse an impossible batch or schedule before any work.
    share, accumulate = distributed.share(config["solver"]["batch"]), config["solver"]["accumulate"]
    micro_batch_size(share, 1 if accumulate == "auto" else accumulate)
    build_schedule(config, epoch=1)
    folder = Path(config["run"]["folder"] or Path("runs") / entry.name)
    # A run that was stopped before its first checkpoint starts again, from the same weights.
    has_checkpoint = bool(Checkpoints(folder / "checkpoints").paths())
    if has_checkpoint and not resume:
        raise FileExistsError(
            f"{folder} holds a run: continue it with --resume, or choose another run.folder"
        )
    with claim(folder):
        if not has_checkpoint:
            log(*notes)
        trainer = start(entry, config, device, folder, distributed.broadcast(has_checkpoint))
        received = trainer.run()
        if not received:
            log(*outcome(folder, entry.name))
    return received


def start(entry: Card, config: Config, device: torch.device, folder: Path, resume: bool) -> Trainer:
    """Make the trainer of a run, with its initial weights or resumed; says what will be trained."""
    solver, data, run = config["solver"], config["data"], config["run"]
    torch.manual_seed(run["seed"])
    if device.type == "cpu":
        # Threads that compete with the loader's workers for a core would delay every parallel loop.
        torch.set_num_threads(max(1, torch.get_num_threads() - data["workers"]))
    torch.backends.cuda.matmul.allow_tf32 = solver["precision"] == "tf32"
    torch.backends.cudnn.allow_tf32 = solver["precision"] == "tf32"

    with distributed.leader_first():
        dataset, test = build_datasets(data, run["seed"])
    check_data(data, dataset, test, folder)

    detector = build_detector({**config, "classes": list(dataset.classes)}).to(device).train()
    detector.card = entry
    if not resume:
        log(initialize_weights(detector, config))
    apply_options(detector, config)

    trainer = make_trainer(entry.name, detector, dataset, test, config, folder)
    if resume:
        trainer.resume()
    announce(trainer, len(dataset), config)
    if distributed.rank() == 0:
        (folder / "config.yaml").write_text(yaml.safe_dump(dict(config), sort_keys=False))
    return trainer


def check_data(data: Config, dataset: DetectionDataset, test: TestSet | None, folder: Path) -> None:
    """Read every image of the test set, and report data that is not trained on or measured.

    Raises:
        ImageError: an image of the test set cannot be read.
    """
    if test:
        limit = data["max_detections"]
        log(*distributed.of_leader(lambda: examine(dataset.classes, test[0], limit)))
    if dataset.counts:
        found = ", ".join(f"{number} x {kind}" for kind, number in dataset.counts.most_common())
        log(f"{data['train']}: {found}; `fcos-zoo data check` names the files")
    if test is None:
        log(
            "no test set goes with it, so that no AP will be measured: set data.test, or "
            "data.split=0.1 to hold out a tenth of the images"
        )
    elif data["split"]:
        if distributed.rank() == 0:
            (folder / "test_split.json").write_text(json.dumps(test[1]))
        log(f"{len(test[0])} images are held out to test on, see {folder / 'test_split.json'}")


def apply_options(detector: Detector, config: Config) -> None:
    """Set the memory layout, activation checkpointing, compilation and freezing of a detector."""
    solver = config["solver"]
    if solver["compile"] and solver["activation_checkpointing"]:
        raise ValueError(
            "solver.compile decides itself which activations to compute again: leave "
            "solver.activation_checkpointing out"
        )
    if solver["channels_last"]:
        detector.to(memory_format=torch.channels_last)
    if solver["activation_checkpointing"]:
        checkpoint_activations(detector)
    if solver["compile"]:
        detector.compile_network()
    if config["freeze"]:
        detector.freeze_backbone()
        trained = sum(p.numel() for p in detector.parameters() if p.requires_grad)
        log(f"freeze=backbone: {trained:,} parameters, of pyramid and head, are trained")


def make_trainer(
    name: str,
    detector: Detector,
    dataset: DetectionDataset,
    test: TestSet | None,
    config: Config,
    folder: Path,
) -> Trainer:
    """Make the trainer of a run; `accumulate=auto` finds out what fits on the GPU."""
    solver, data, run = config["solver"], config["data"], config["run"]
    epoch = len(dataset) / solver["batch"]
    rules = ("momentum", "weight_decay", "norm_weight_decay", "bias_lr_factor", "bias_weight_decay")
    optimizer = make_optimizer(
        detector,
        solver["base_lr"],
        fused=solver["fused_optimizer"],
        **{key: solver[key] for key in rules},
    )
    trainer = Trainer(
        detector,
        partial(batches, dataset, config, detector.normalizer.mean.device, folder),
        optimizer,
        build_schedule(config, epoch),
        folder,
        name,
        epoch,
        fingerprint(dataset),
        partial(measure, test, data, folder) if test else None,
        config,
        accumulate=1 if solver["accumulate"] == "auto" else solver["accumulate"],
        evaluate_every=run["evaluate_every"] or max(round(epoch), 1),
        **{key: solver[key] for key in ("precision", "clip_norm", "ema", "on_nonfinite")},
        **{key: run[key] for key in ("log_every", "checkpoint_every", "keep", "loggers")},
    )
    if solver["accumulate"] == "auto":
        trainer.accumulate = fitting_accumulation(
            detector,
            distributed.share(solver["batch"]),
            largest_size(config["augmentation"], dataset),
            trainer.dtype,
            data["aspect_ratio_group_size"],
        )
    return trainer


def batches(
    dataset: DetectionDataset, config: Config, device: torch.device, folder: Path, start: int
) -> Iterable[Batch]:
    """Load this process's share of the images of every step from `start` on, augmented.

    The first batch of a run is drawn into its folder.
    """
    solver, data, run = config["solver"], config["data"], config["run"]
    sampler = TrainingSampler(
        dataset.portrait.tolist(),
        solver["batch"],
        run["seed"],
        data["aspect_ratio_group_size"],
        distributed.rank(),
        distributed.world(),
        start,
    )
    transforms = build_transforms(config)
    if start == 0 and distributed.rank() == 0:
        first = next(iter(Loader(dataset, sampler, transforms, workers=0)))
        draw_batch(first, dataset.classes, folder / "first_batch.jpg")
    return Loader(dataset, sampler, transforms, data["workers"], pin_memory=device.type == "cuda")


def measure(test: TestSet, data: Config, folder: Path, detector: Detector) -> dict[str, Any]:
    """Return the metrics of a detector; draws its detections at the first evaluation."""
    figures = evaluate_detector(
        detector, *test, workers=data["workers"], max_detections=data["max_detections"]
    )
    drawn = folder / "first_detections.jpg"
    if distributed.rank() == 0 and not drawn.exists():
        draw_detections(detector, test[0], drawn)
    return figures


def announce(trainer: Trainer, images: int, config: Config) -> None:
    """Log what will be trained, and settings that may not be as expected."""
    iterations, accumulate, folder = trainer.schedule.iterations, trainer.accumulate, trainer.folder
    epochs = iterations / trainer.epoch
    parts = f" in {accumulate} micro-batches" if accumulate > 1 else ""
    log(
        f"{trainer.name}: {images} images of {len(trainer.detector.classes)} classes, batches of "
        f"{config['solver']['batch']} on {distributed.world()} x {trainer.device.type}{parts}, "
        f"from iteration {trainer.iteration} of {iterations} "
        f"({epochs:.3g} epoch{'' if epochs == 1 else 's'}) in {folder}"
    )
    if trainer.schedule.warmup_iterations >= iterations:
        log(
            "the learning rate does not reach solver.base_lr: its warm-up takes "
            f"solver.warmup.iterations={trainer.schedule.warmup_iterations}"
        )
    if late := [step for step in trainer.schedule.steps if step >= iterations]:
        log(
            f"the learning rate does not drop at {', '.join(map(str, late))}: the run ends at "
            f"{iterations}. Set schedule.steps, or only `epochs`, which moves them along"
        )
    for logger in missing(config["run"]["loggers"]):
        log(f"{logger} is not installed: the curves are only in {folder / 'metrics.jsonl'}")
    norms = [m for m in trainer.detector.modules() if isinstance(m, _BatchNorm)]
    if accumulate > 1 and not all(isinstance(m, EvalBatchNorm2d) for m in norms):
        log("batch norms compute their statistics over one micro-batch at a time")


def outcome(folder: Path, name: str) -> list[str]:
    """Return the last lines of a run: its files, the best AP, and what to do next."""
    final, best = folder / f"{name}.pth", folder / "best.pth"
    measured = [record for record in read(folder / "metrics.jsonl") if record.get("AP") is not None]
    if not measured or not best.is_file():
        return [f"trained: {final}", f"next: fcos-zoo predict {quote(str(final))} IMAGES"]
    record = max(measured, key=lambda record: float(record["AP"]))
    return [
        f"trained: {final}",
        f"best: {best}, AP {percent(record['AP'])} after iteration {record['iteration']}",
        f"next: fcos-zoo predict {quote(str(best))} IMAGES",
    ]


def log(*lines: str) -> None:
    """Print lines on rank 0."""
    console = TextConsole(stderr=True, quiet=distributed.rank() != 0, soft_wrap=True)
    for line in lines:
        console.print(line)
