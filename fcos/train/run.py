"""A training run from its configuration: datasets, augmentation, schedule, trainer.

The configuration is a plain mapping, laid out as `configs/training/defaults.yaml` describes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from torch.nn.modules.batchnorm import _BatchNorm

from backbones.layers import EvalBatchNorm2d
from fcos.data.dataset import DetectionDataset
from fcos.detector import Detector
from fcos.evaluate import evaluate_detector, examine
from fcos.text import printable
from fcos.train import distributed, mosaic
from fcos.train.accumulate import fitting_accumulation, largest_size
from fcos.train.activation_checkpointing import checkpoint_activations
from fcos.train.checkpoint import Checkpoints
from fcos.train.datasets import (
    SPLIT_FILE,
    TestSet,
    batches,
    build_datasets,
    record_split,
    recorded_split,
    remarks,
)
from fcos.train.metrics import missing, outcome
from fcos.train.optim import Schedule, make_optimizer
from fcos.train.resume import claim, fingerprint
from fcos.train.settings import DTYPES, TrainConfig
from fcos.train.trainer import Trainer

Config = Mapping[str, Any]


def train(
    name: str,
    config: Config,
    make_detector: Callable[[Sequence[str]], Detector],
    initialize: Callable[[Detector], str],
    device: torch.device,
    resume: bool,
) -> int:
    """Train a model as configured.

    Args:
        name: of the model.
        config: of the run.
        make_detector: from class names to a detector.
        initialize: loads the weights that training starts from, and says which they are.
        device: of this process.
        resume: whether to continue a run in the same folder.

    Returns:
        0, or the number of the signal that stopped it.

    Raises:
        FileExistsError: the folder holds a run and `resume` is False.
        ValueError: a setting is wrong.
    """
    folder = Path(config["run"]["folder"] or Path("runs") / name)
    images_per_process(config["solver"]["batch"])  # refuse a wrong batch before any work
    has_checkpoint = bool(Checkpoints(folder / "checkpoints").paths())
    if has_checkpoint and not resume:
        raise FileExistsError(
            f"{folder} holds a run: continue it with --resume, or choose another run.folder"
        )
    with claim(folder):
        return _train(name, config, make_detector, initialize, device, has_checkpoint, folder)


def _train(
    name: str,
    config: Config,
    make_detector: Callable[[Sequence[str]], Detector],
    initialize: Callable[[Detector], str],
    device: torch.device,
    resume: bool,
    folder: Path,
) -> int:
    """Train in a folder that no other run writes."""
    solver, data, run = config["solver"], config["data"], config["run"]
    console = Console(
        stderr=True, quiet=distributed.rank() != 0, soft_wrap=True, markup=False, emoji=False
    )

    def log(text: str) -> None:
        console.print(printable(text))

    torch.manual_seed(run["seed"])
    if device.type == "cpu":
        # A core that a loader's worker uses would keep every parallel loop waiting.
        torch.set_num_threads(max(1, torch.get_num_threads() - data["workers"]))
    torch.backends.cuda.matmul.allow_tf32 = solver["precision"] == "tf32"
    torch.backends.cudnn.allow_tf32 = solver["precision"] == "tf32"

    # A run that was stopped before its first checkpoint starts again, from the same weights.
    resume, held_out = distributed.broadcast((resume, recorded_split(folder) if resume else None))
    with distributed.leader_first():
        dataset, test = build_datasets(data, run["seed"], held_out)
    detector = make_detector(dataset.classes).to(device).train()
    faults = partial(examine, dataset.classes, test[0], data["max_detections"]) if test else list
    for line in distributed.broadcast(faults() if distributed.rank() == 0 else None):
        log(line)
    for line in remarks(data, dataset, test):
        log(line)
    if data["split"] and test:
        if held_out is None and distributed.rank() == 0:
            record_split(folder, test)
        log(f"{len(test[0])} images are held out to test on, see {folder / SPLIT_FILE}")
    if not resume:
        for line in initialize(detector).splitlines():
            log(line)
    apply_options(detector, solver)
    if config["freeze"]:
        detector.freeze_backbone()
        trained = sum(p.numel() for p in detector.parameters() if p.requires_grad)
        log(f"freeze=backbone: {trained:,} parameters, of pyramid and head, are trained")
    trainer = make_trainer(name, detector, dataset, test, config, folder)
    if resume:
        trainer.resume()
    accumulate = trainer.config.accumulate
    parts = f" in {accumulate} micro-batches" if accumulate > 1 else ""
    log(
        f"{name}: {len(dataset)} images of {len(dataset.classes)} classes, batches of "
        f"{solver['batch']} on {distributed.world()} x {device.type}{parts}, from iteration "
        f"{trainer.iteration} of {trainer.schedule.iterations} "
        f"({trainer.schedule.iterations / trainer.epoch:.3g} epochs) in {folder}"
    )
    warmup = trainer.schedule.warmup_iterations
    if warmup >= trainer.schedule.iterations:
        log(
            "the learning rate does not reach solver.base_lr: its warm-up takes "
            f"solver.warmup.iterations={warmup}"
        )
    for logger in missing(run["loggers"]):
        log(f"{logger} is not installed: the curves are only in {folder / 'metrics.jsonl'}")
    norms = [m for m in detector.modules() if isinstance(m, _BatchNorm)]
    if accumulate > 1 and not all(isinstance(m, EvalBatchNorm2d) for m in norms):
        log("batch norms compute their statistics over one micro-batch at a time")
    if distributed.rank() == 0:
        (folder / "config.yaml").write_text(yaml.safe_dump(dict(config), sort_keys=False))
    received = trainer.run()
    for line in () if received else outcome(folder, name):
        log(line)
    return received


def make_trainer(
    name: str,
    detector: Detector,
    dataset: DetectionDataset,
    test: TestSet | None,
    config: Config,
    folder: Path,
) -> Trainer:
    """The trainer of a run; `accumulate=auto` tries what fits on the GPU."""
    solver, data, run = config["solver"], config["data"], config["run"]
    num_images = images_per_process(solver["batch"])
    epoch = len(dataset) / solver["batch"]
    accumulate = solver["accumulate"]
    if accumulate == "auto":
        accumulate = fitting_accumulation(
            detector,
            num_images,
            largest_size(config["augmentation"], dataset),
            DTYPES[solver["precision"]],
            data["aspect_ratio_group_size"],
            ema=solver["ema"] is not None,
        )
    rules = ("momentum", "weight_decay", "norm_weight_decay", "bias_lr_factor", "bias_weight_decay")
    optimizer = make_optimizer(
        detector,
        solver["base_lr"],
        fused=solver["fused_optimizer"],
        **{key: solver[key] for key in rules},
    )
    return Trainer(
        detector,
        partial(batches, dataset, config, detector.normalizer.mean.device, folder),
        optimizer,
        build_schedule(config, epoch),
        folder,
        name,
        TrainConfig(
            precision=solver["precision"],
            accumulate=accumulate,
            clip_norm=solver["clip_norm"],
            ema=solver["ema"],
            on_nonfinite=solver["on_nonfinite"],
            log_every=run["log_every"],
            checkpoint_every=run["checkpoint_every"],
            evaluate_every=run["evaluate_every"] or max(round(epoch), 1),
            keep=run["keep"],
            loggers=run["loggers"],
        ),
        epoch=epoch,
        evaluate=partial(_measure, test, data, folder) if test else None,
        settings=config,
        fingerprint=fingerprint(dataset),
    )


def apply_options(detector: Detector, solver: Config) -> None:
    """Set the memory layout, activation checkpointing and compilation of a detector."""
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


def images_per_process(batch: int) -> int:
    """This process's images of a step; ValueError if the processes cannot share it equally."""
    world = distributed.world()
    if batch % world:
        raise ValueError(f"{world} processes cannot share solver.batch={batch} images equally")
    return batch // world


def build_schedule(config: Config, epoch: float) -> Schedule:
    """The learning rates of a recipe; an epoch has `epoch` iterations."""
    times, solver = config["schedule"], config["solver"]
    warmup, iterations, steps = solver["warmup"], times["iterations"], times["steps"]
    return Schedule(
        max(round(times["epochs"] * epoch), 1) if iterations is None else iterations,
        [round(step * epoch) for step in times["step_epochs"]] if steps is None else steps,
        solver["gamma"],
        warmup["method"],
        warmup["iterations"],
        warmup["factor"],
    )


def _measure(test: TestSet, data: Config, folder: Path, detector: Detector) -> dict[str, Any]:
    """The figures of a detector; what it detects at the first evaluation is drawn."""
    figures = evaluate_detector(
        detector, *test, workers=data["workers"], max_detections=data["max_detections"]
    )
    drawn = folder / "first_detections.jpg"
    if distributed.rank() == 0 and not drawn.exists():
        mosaic.draw_detections(detector, test[0], drawn)
    return figures
