"""The settings of a trainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from fcos.train.metrics import LoggerName

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
OnNonFinite = Literal["stop", "skip"]
DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


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
