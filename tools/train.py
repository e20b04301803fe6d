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
from torch.nn.modules.batchnorm import _BatchNorm

import zoo
from backbones.layers import EvalBatchNorm2d
from fcos import Detector
from fcos.data.dataset import DetectionDataset
from fcos.data.loader import Batch, Loader
from fcos.data.sampler import TrainingSampler
from fcos.evaluate import evaluate_detector
from fcos.train import distributed
from fcos.train.memory import fitting_parts
from fcos.train.recompute import recompute_activations
from fcos.train.solver import make_optimizer
from fcos.train.trainer import DTYPES, Trainer
from zoo.build import assemble
from zoo.card import compose_entry
from zoo.recipe import Test, datasets, largest_size, schedule, transforms
from zoo.start import start

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
    say = Console(stderr=True, quiet=distributed.rank() != 0, soft_wrap=True, markup=False).print
    _share(solver["batch"])  # refuse before the work, not after
    held = any((folder / "checkpoints").glob("*.pth"))
    if held and not resume:
        raise FileExistsError(
            f"{folder} holds a run: go on with --resume, or choose another with run.folder=…"
        )
    torch.manual_seed(run["seed"])
    if device.type == "cpu":
        # A core that the loader works on makes every parallel loop wait for it.
        torch.set_num_threads(max(1, torch.get_num_threads() - data["workers"]))
    torch.backends.cuda.matmul.allow_tf32 = solver["precision"] == "tf32"
    torch.backends.cudnn.allow_tf32 = solver["precision"] == "tf32"
    with distributed.leader_first():
        dataset, test = datasets(data)
    detector = assemble({**config, "classes": list(dataset.classes)}).to(device).train()
    detector.card = card
    # A run that was stopped before its first checkpoint begins, with all that belongs to that.
    resume = distributed.broadcast(held)
    if not resume:
        say(start(detector, config))
    apply_options(detector, solver)
    trainer = make_trainer(detector, dataset, test, config, folder)
    if resume:
        trainer.resume()
    say(
        f"{card.name}: {len(dataset)} images of {len(dataset.classes)} classes, batches of "
        f"{solver['batch']} on {distributed.world()} x {device.type} in "
        f"{trainer.accumulate} parts, from iteration {trainer.iteration} in {folder}"
    )
    norms = [m for m in detector.modules() if isinstance(m, _BatchNorm)]
    if trainer.accumulate > 1 and not all(isinstance(m, EvalBatchNorm2d) for m in norms):
        say("batch norms take their statistics over one part at a time")
    if distributed.rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(dict(config), sort_keys=False))
    return trainer.run()


def apply_options(detector: Detector, solver: Config) -> None:
    """Memory layout, activation checkpointing, compilation."""
    if solver["compile"] and solver["recompute"]:
        raise ValueError(
            "solver.compile chooses by itself what to recompute: leave solver.recompute out"
        )
    if solver["channels_last"]:
        detector.to(memory_format=torch.channels_last)
    if solver["recompute"]:
        recompute_activations(detector)
    if solver["compile"]:
        detector.compile_network()


def make_trainer(
    detector: Detector, dataset: DetectionDataset, test: Test | None, config: Config, folder: Path
) -> Trainer:
    """The trainer of a run; `accumulate=auto` tries what fits."""
    solver, data, run = config["solver"], config["data"], config["run"]
    device = detector.normalizer.mean.device
    share = _share(solver["batch"])
    epoch = len(dataset) / solver["batch"]
    accumulate = solver["accumulate"]
    if accumulate == "auto":
        size = largest_size(config["augmentation"], dataset)
        dtype = DTYPES[solver["precision"]]
        accumulate = fitting_parts(detector, share, size, dtype, data["group"])
    rules = ("momentum", "weight_decay", "norm_weight_decay", "bias_lr_factor", "bias_weight_decay")
    return Trainer(
        detector,
        partial(batches, dataset, config, device),
        make_optimizer(
            detector,
            solver["base_lr"],
            fused=solver["fused"],
            **{key: solver[key] for key in rules},
        ),
        schedule(config, epoch),
        folder,
        detector.card.name,
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


def _measure(test: Test, workers: int, detector: Detector) -> dict[str, Any]:
    return evaluate_detector(detector, *test, workers=workers)


def _share(batch: Any) -> int:
    """This process's images of a step.

    Raises:
        ValueError: the batch is no number, or not to be shared equally.
    """
    world = distributed.world()
    if not isinstance(batch, int) or batch < 1:
        raise ValueError(f"solver.batch={batch} is no number of images from 1 on")
    if batch % world:
        raise ValueError(
            f"solver.batch={batch} images cannot be shared equally by {world} processes"
        )
    return batch // world


def _names_entry(argument: str) -> bool:
    return "=" not in argument or argument.startswith("entry=")


if __name__ == "__main__":
    sys.exit(main())
