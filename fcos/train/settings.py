"""The settings of a trainer, and what the sections of a run's configuration may hold.

The defaults of the sections are in ``configs/training/defaults.yaml``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Interval

from backbones.ranges import Count, CountOrZero, NotNegative, Positive, Share
from fcos.data import shapes
from fcos.settings import check, check_types, nearest
from fcos.train.metrics import LoggerName
from fcos.train.optim import WarmupMethod

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
OnNonFinite = Literal["stop", "skip"]
DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
Scale = Annotated[float, Interval(gt=0, le=1)]


@dataclass(frozen=True)
class TrainConfig:
    """How a `Trainer` trains.

    Args:
        precision: of backbone, pyramid and head; losses and box regression are in fp32.
        accumulate: number of micro-batches that a process computes its share of a step in, with
            the gradients and the loss normalisers of the whole step.
        clip_norm: the gradient is scaled down to this norm.
        ema: decay of a moving average of the weights, which is then evaluated and released.
        on_nonfinite: a step with a non-finite loss never changes the weights; "stop" then ends the
            run, "skip" goes on and counts the step.
        log_every, checkpoint_every, evaluate_every: in iterations. Losses are read from the device
            only then, so a run ends up to `log_every` steps after a non-finite loss.
        keep: how many of the newest checkpoints to keep.
        loggers: see `metrics.Log`.
    """

    precision: Precision = "fp32"
    accumulate: int = 1
    clip_norm: float | None = None
    ema: float | None = None
    on_nonfinite: OnNonFinite = "stop"
    log_every: int = 20
    checkpoint_every: int = 1000
    evaluate_every: int = 5000
    keep: int = 3
    loggers: Sequence[LoggerName] = ()

    def __post_init__(self) -> None:
        if self.precision not in DTYPES:
            raise ValueError(f"precision {self.precision!r} is not one of {', '.join(DTYPES)}")
        if self.on_nonfinite not in ("stop", "skip"):
            raise ValueError(f"on_nonfinite must be stop or skip, not {self.on_nonfinite!r}")
        if min(self.log_every, self.checkpoint_every, self.evaluate_every) < 1:
            raise ValueError(
                "log_every, checkpoint_every and evaluate_every must be at least 1 iteration"
            )


@dataclass
class Solver:
    """The optimiser, and how a step is computed."""

    batch: Count
    base_lr: NotNegative
    scale_lr: bool
    momentum: Annotated[float, Interval(ge=0, lt=1)]
    weight_decay: NotNegative
    norm_weight_decay: NotNegative | None
    bias_lr_factor: NotNegative
    bias_weight_decay: NotNegative | None
    gamma: Positive
    warmup: dict[str, Any]
    clip_norm: Positive | None
    accumulate: Count | Literal["auto"]
    precision: Precision
    channels_last: bool
    compile: bool
    activation_checkpointing: bool
    fused_optimizer: bool | None
    ema: Annotated[float, Interval(gt=0, lt=1)] | None
    on_nonfinite: OnNonFinite


@dataclass
class Warmup:
    """The first iterations, in which the learning rate grows."""

    method: WarmupMethod
    iterations: CountOrZero
    factor: Share


@dataclass
class Schedule:
    """How long to train, and when the learning rate drops; in iterations or else in epochs."""

    iterations: Count | None
    steps: list[CountOrZero] | None
    epochs: Positive | None = None
    step_epochs: list[NotNegative] | None = None


@dataclass
class Data:
    """The datasets, and how they are read."""

    root: str
    train: str
    train_images: str | None
    test: str | None
    test_images: str | None
    split: Annotated[float, Interval(gt=0, lt=1)] | None
    max_detections: Count | None
    plus_one: bool
    whole_pixels: bool
    keep_empty: bool
    skip_unreadable: bool
    flip: Share
    aspect_ratio_group_size: Count
    workers: CountOrZero
    shapes: dict[str, Any] | None = None


@dataclass
class Augmentation:
    """Of the three kinds of ``configs/augmentation``."""

    shortest: list[Count] | None = None
    shortest_range: tuple[Count, Count] | None = None
    longest: Count | None = None
    square: Count | None = None
    scale_range: tuple[Scale, Scale] | None = None


@dataclass
class Init:
    """The weights that training starts from."""

    checkpoint: str | None
    backbone: str | None


@dataclass
class Run:
    """The folder of the run, and what it writes when."""

    folder: str | None
    seed: Annotated[int, Interval(ge=0, lt=2**63)]
    device: str | None
    log_every: Count
    checkpoint_every: Count
    keep: Count
    evaluate_every: Count | None
    loggers: list[LoggerName]


# Settings that belong to no section.
SINGLE = {"epochs": Positive | None, "freeze": Literal["backbone"] | None}
SECTIONS = {
    "solver": Solver,
    "schedule": Schedule,
    "data": Data,
    "augmentation": Augmentation,
    "init": Init,
    "run": Run,
}


def check_training(config: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Check every setting of a run that is not the detector's.

    Args:
        config: of the run.
        known: the model's own configuration, which has all sections and facts.

    Raises:
        ValueError: one line that names a wrong setting, its value and what is allowed.
    """
    names = {*known, *SECTIONS, "imagenet"}
    for key in config:
        if key not in names:
            raise ValueError(f"{key} is not a setting: {nearest(key, names)}")
    check_types(SINGLE, {key: config.get(key) for key in SINGLE})
    solver = config.get("solver")
    if isinstance(solver, Mapping) and "freeze" in solver:
        raise ValueError("solver.freeze is not a setting: did you mean freeze?")
    for key, section in SECTIONS.items():
        check(section, config.get(key), key)
    for name, drawn in (config["data"].get("shapes") or {}).items():
        check(shapes.write, drawn, f"data.shapes.{name}", given=("folder",))
    check(Warmup, config["solver"]["warmup"], "solver.warmup")
    schedule = config["schedule"]
    for key, other in (("iterations", "epochs"), ("steps", "step_epochs")):
        if schedule[key] is None and schedule.get(other) is None:
            raise ValueError(f"schedule.{key} and schedule.{other} are both null: set one of them")
