"""The training loop."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fcos.checked import checked
from fcos.data.loader import Batch
from fcos.detector import Detector
from fcos.settings import LoggerName, OnNonFinite, Precision
from fcos.train import checkpoint, distributed
from fcos.train.memory import StepNormalizers, Target, advice_if_out_of_memory, split
from fcos.train.metrics import Log, Meter, NonFiniteLossError, Step
from fcos.train.optim import Schedule, update_where

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
SKIPS = 20  # consecutive steps with non-finite losses after which the weights must be the cause


@checked
@dataclass(eq=False)
class Trainer:
    """Trains a detector, in one process or as one of several, and resumes where it stopped."""

    detector: Detector  # on its device, trained in place
    batches: Callable[[int], Iterable[Batch]]  # of this process, from the given iteration on
    optimizer: torch.optim.Optimizer  # made by `optim.make_optimizer`
    schedule: Schedule
    folder: Path  # for metrics.jsonl, checkpoints/, best.pth and finally NAME.pth
    name: str  # the model's
    epoch: float  # iterations per pass over the dataset
    fingerprint: str | None = None  # of the dataset, see `checkpoint.fingerprint`
    # Evaluates a detector; called on all ranks, and returns the same metrics on all.
    evaluate: Callable[[Detector], Mapping[str, Any]] | None = None
    settings: Mapping[str, Any] | None = None  # of the run, for loggers and the released file
    precision: Precision = "fp32"  # of the network; losses and box regression are in fp32
    accumulate: int = 1  # micro-batches into which a process splits its share of a step
    clip_norm: float | None = None  # maximum norm of the gradient
    ema: float | None = None  # decay of a moving average of the weights, which is then released
    # A step with a non-finite loss never changes the weights. "stop" then ends the run, up to
    # `log_every` steps later; "skip" continues and counts the step.
    on_nonfinite: OnNonFinite = "stop"
    log_every: int = 20  # iterations, as the next two
    checkpoint_every: int = 1000
    evaluate_every: int = 5000
    keep: int = 3  # newest checkpoints
    loggers: Sequence[LoggerName] = ()

    def __post_init__(self) -> None:
        self.device = self.detector.normalizer.mean.device
        self.dtype = HALF.get(self.precision, torch.float32)
        self.checkpoints = checkpoint.Checkpoints(self.folder / "checkpoints", self.keep)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.average: AveragedModel | None = None
        if self.ema is not None:
            average = get_ema_multi_avg_fn(self.ema)
            self.average = AveragedModel(self.detector, multi_avg_fn=average, use_buffers=True)
        self.model: nn.Module = self.detector
        if distributed.world() > 1:
            self.model = DistributedDataParallel(self.detector, gradient_as_bucket_view=True)
            # Each process keeps its own statistics of norms, as the published code bases do. (The
            # argument of the same name is deprecated in newer versions.)
            self.model.broadcast_buffers = False
        self.iteration = 0
        self.skipped = 0  # steps without an update, those by which fp16 finds its scale included
        self.skipped_in_a_row = 0

    @property
    def eval_model(self) -> Detector:
        """The detector to evaluate and release: the moving average if there is one."""
        return self.average.module if self.average else self.detector  # type: ignore[return-value]

    @cached_property
    def step_normalizers(self) -> StepNormalizers:
        """Computes the normalisers of a step's losses before its first micro-batch."""
        return StepNormalizers(self.detector)

    def run(self) -> int:
        """Train to the end of the schedule.

        Returns:
            0, or the number of the signal that stopped it, after a checkpoint was saved.

        Raises:
            NonFiniteLossError: a loss is NaN or infinite, see `on_nonfinite`.
        """
        end = self.schedule.iterations
        log, meter = Log(self.folder, self.iteration, end, self.loggers, self.settings), Meter()
        self.detector.train()
        batches = iter(self.batches(self.iteration))
        with distributed.StopSignals() as signals, log.bar:
            evaluated = any(record["iteration"] == self.iteration for record in log.evaluations)
            if self.iteration and not distributed.broadcast(evaluated):
                self._evaluate(log)  # the previous run was stopped before that
            while self.iteration < end:
                with meter.waiting():
                    images, targets = next(batches)
                with advice_if_out_of_memory(images, self.accumulate):
                    losses = self.step(images, targets)
                meter.add(self.iteration, losses, targets)
                self.iteration += 1
                log.bar.advance(log.task)

                received = distributed.maximum(signals.received)
                stop = received and self.iteration < end
                save = stop or self._every(self.checkpoint_every, self.evaluate_every)
                shown = self.iteration == 1 or self._every(self.log_every)
                if save or shown:
                    self._check(meter.read())  # only here the host waits for the device
                if shown:
                    log.write(self._with_position(meter.record(self.device)))
                with meter.paused():
                    if save:
                        self.save()
                    if stop:
                        line = f"stopped after iteration {self.iteration}, which is saved"
                        log.console.print(line)
                        return received
                    self._evaluate(log)
        return 0

    def step(self, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """Update the weights once, from this process's share of the images.

        Returns:
            This process's losses, their sum "loss" and the norm of the gradient, as scalars on the
            device, which may still be computing them.
        """
        self.schedule.apply(self.optimizer, self.iteration)
        buffers = self._forward_buffers() if self.on_nonfinite == "skip" else []
        before = [buffer.clone() for buffer in buffers]

        losses: dict[str, Tensor] = {}
        micro_batches = split(images, targets, self.accumulate)
        normalizers = self.step_normalizers(micro_batches) if self.accumulate > 1 else [None]
        for number, micro_batch in enumerate(micro_batches):
            if isinstance(self.model, DistributedDataParallel):  # exchange gradients only once
                self.model.require_backward_grad_sync = number == len(micro_batches) - 1
            with torch.autocast(self.device.type, self.dtype, self.dtype != torch.float32):
                part = self.model(*micro_batch, normalizers[number])
            part["loss"] = sum(part.values())
            # NaN times a gradient is NaN, so a non-finite loss in one process makes the gradients
            # of all processes non-finite.
            finite_or_nan = 1 + 0 * part["loss"].detach()
            self.scaler.scale(part["loss"] * finite_or_nan).backward()
            for name, value in part.items():
                losses[name] = losses.get(name, 0) + value.detach()

        self.scaler.unscale_(self.optimizer)
        norm = get_total_norm([p.grad for p in self.detector.parameters() if p.grad is not None])
        if self.clip_norm is not None:
            clip_grads_with_norm_(self.detector.parameters(), self.clip_norm, norm)
        finite = norm.isfinite()
        update_where(finite, self.optimizer, self.scaler)
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(torch.where(finite, buffer, value))
        if self.average:
            self.average.update_parameters(self.detector)
        self.optimizer.zero_grad()
        return {**losses, "grad_norm": norm}

    def _forward_buffers(self) -> list[Tensor]:
        """Return the buffers that a forward pass changes."""
        stateful = [m for m in self.detector.modules() if isinstance(m, _BatchNorm)]
        return [b for module in (*stateful, self.detector.loss) for b in module.buffers()]

    def _check(self, steps: Sequence[Step]) -> None:
        """Count the steps without an update, and raise an error if there must be none."""
        for step in steps:
            wrong = {name for name, value in step.mean.items() if not math.isfinite(value)}
            self.skipped += bool(wrong)
            # The scaler of fp16 finds its scale by infinite gradients, but not by infinite losses.
            if not wrong or (self.scaler.is_enabled() and wrong == {"grad_norm"}):
                self.skipped_in_a_row = 0
                continue
            self.skipped_in_a_row += 1
            if self.on_nonfinite == "stop" or self.skipped_in_a_row >= SKIPS:
                raise NonFiniteLossError(step)

    def _evaluate(self, log: Log) -> None:
        """Write the last weights; evaluate every `evaluate_every` iterations, and keep the best."""
        if self.iteration == self.schedule.iterations:
            self._release(self.folder / f"{self.name}.pth")
        if self.evaluate is None or not self._every(self.evaluate_every):
            return
        for buffer in self.eval_model.buffers():  # each rank's norms have other statistics
            distributed.copy_from_leader(buffer)
        with log.paused():
            figures = self._with_position(self.evaluate(self.eval_model))
        best = max((record["AP"] or 0 for record in log.evaluations), default=-1)
        if figures["AP"] is not None and figures["AP"] > best:
            self._release(self.folder / "best.pth")
        log.write(figures)

    def _release(self, path: Path) -> None:
        """Write the weights that are evaluated, without the state of training."""
        if distributed.rank() == 0:
            weights = self.eval_model.state_dict()
            checkpoint.release(weights, self.detector.classes, self.name, path, self.settings)

    def _every(self, *intervals: int) -> bool:
        return self.iteration == self.schedule.iterations or any(
            self.iteration % interval == 0 for interval in intervals
        )

    def _with_position(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "iteration": self.iteration,
            "epoch": self.iteration / self.epoch,
            **record,
            "rate": self.optimizer.param_groups[0]["base_lr"] * self.schedule(self.iteration - 1),
            "skipped_steps": self.skipped,
        }

    def save(self) -> None:
        """Write a checkpoint of everything that the next iteration depends on."""
        random_states = distributed.gather(checkpoint.random_state(self.device))
        if distributed.rank() == 0:
            state = {
                "iteration": self.iteration,
                **self._identity,
                "random": random_states,
                "skipped": [self.skipped, self.skipped_in_a_row],
                "model": self.detector.state_dict(),
                "moving_positives": self.detector.loss.moving_positives,
                "average": self.average.state_dict() if self.average else None,
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
            }
            self.checkpoints.save(state, self.iteration)
        distributed.barrier()  # no process leaves before the file is whole

    def resume(self) -> bool:
        """Load the newest intact checkpoint of this run; returns False if there is none.

        Learning rates and weight decays stay those of the present optimiser.

        Raises:
            ValueError: all are damaged, or of another model, dataset, total batch or detector; or
                the iteration is later than the last of the schedule.
        """
        own = {**self._identity, "average": self.average}
        newest = partial(self.checkpoints.newest, lambda state: checkpoint.difference(state, own))
        path = distributed.of_leader(newest)  # every process reads the same file itself
        if path is None:
            return False
        state = checkpoint.load(path)
        if state["iteration"] > self.schedule.iterations:
            raise ValueError(
                f"{path} is of a later iteration than schedule.iterations="
                f"{self.schedule.iterations}: raise that, or choose another run.folder"
            )
        changed = checkpoint.changes(state.get("settings") or {}, self.settings or {})
        if changed and distributed.rank() == 0:
            warnings.warn(f"resumed with other settings: {'; '.join(changed)}", stacklevel=2)
        self.iteration = state["iteration"]
        self.skipped, self.skipped_in_a_row = state["skipped"]
        self.detector.load_state_dict(state["model"])
        self.detector.loss.moving_positives.copy_(state["moving_positives"])
        if self.average:
            self.average.load_state_dict(state["average"])
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, options in zip(self.optimizer.param_groups, groups, strict=True):
            group.update({key: options[key] for key in options if key != "params"})
        if state["scaler"]:  # of a run in fp16
            self.scaler.load_state_dict(state["scaler"])
        if distributed.rank() < len(state["random"]):
            checkpoint.set_random_state(state["random"][distributed.rank()], self.device)
        return True

    @property
    def _identity(self) -> dict[str, Any]:
        """Return what identifies a checkpoint as one of this run, besides its weights."""
        return {
            "entry": self.name,
            "classes": list(self.detector.classes),
            "settings": self.settings,
            "epoch": self.epoch,
            "dataset": self.fingerprint,
        }
