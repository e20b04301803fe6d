"""The training loop."""

from __future__ import annotations

import math
import signal
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fcos.data.loader import Batch
from fcos.detector import Detector
from fcos.train import distributed
from fcos.train.accumulate import Part, StepNormalizers, Target, split
from fcos.train.checkpoint import Checkpoints, random_state, release, set_random_state
from fcos.train.log import Log, Meter
from fcos.train.screen import Screen
from fcos.train.signals import StopSignals
from fcos.train.solver import Schedule

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
SKIPS = 20  # non-finite losses in a row after which the weights themselves must be lost


class NonFiniteLossError(RuntimeError):
    """A loss or gradient is NaN or infinite; the message names the images."""


class Trainer:
    """Trains a detector, alone or as one of several processes, from where it stopped.

    Args:
        detector: on its device, trained in place.
        batches: from the iteration to start at to this process's share of each step's images.
        optimizer: of `solver.make_optimizer`.
        schedule: learning rates, and how many iterations there are.
        folder: of the run: `metrics.jsonl`, `checkpoints/`, `best.pth` and, in the end, NAME.pth.
        name: of the entry.
        epoch: iterations that see as many images as the dataset has.
        accumulate: parts that a process's share of a step is computed in, one after another, with
            the gradients and the loss normalisers of the whole step.
        precision: of backbone, pyramid and head; losses and box regression are in fp32.
        clip_norm: the gradient is scaled down to this norm.
        ema: decay of a moving average of the weights, which is then what is evaluated and released.
        nan: what a non-finite loss does: "stop", or "skip" the step and count it.
        evaluate: measures a detector; called on all ranks, and on all returns the same figures.
        log_every, checkpoint_every, evaluate_every: in iterations.
        keep: how many of the newest checkpoints to keep.
        loggers, config: see `Log`.
    """

    def __init__(
        self,
        detector: Detector,
        batches: Callable[[int], Iterable[Batch]],
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        folder: Path,
        name: str,
        *,
        epoch: float,
        accumulate: int = 1,
        precision: Precision = "fp32",
        clip_norm: float | None = None,
        ema: float | None = None,
        nan: Literal["stop", "skip"] = "stop",
        evaluate: Callable[[Detector], Mapping[str, Any]] | None = None,
        log_every: int = 20,
        checkpoint_every: int = 1000,
        evaluate_every: int = 5000,
        keep: int = 3,
        loggers: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
    ) -> None:
        if precision not in DTYPES:
            raise ValueError(f"precision {precision!r} is not one of {', '.join(DTYPES)}")
        if nan not in ("stop", "skip"):
            raise ValueError(f"nan must be stop or skip, not {nan!r}")
        if min(log_every, checkpoint_every, evaluate_every) < 1:
            raise ValueError(
                "log_every, checkpoint_every and evaluate_every are at least 1 iteration"
            )
        self.detector = detector
        self.device = detector.normalizer.mean.device
        self.batches = batches
        self.optimizer = optimizer
        self.schedule = schedule
        self.folder = folder
        self.name = name
        self.epoch = epoch
        self.accumulate = accumulate
        self.dtype = DTYPES[precision]
        self.clip_norm = clip_norm
        self.nan = nan
        self.evaluate = evaluate
        self.log_every = log_every
        self.checkpoint_every = checkpoint_every
        self.evaluate_every = evaluate_every
        self.loggers = loggers
        self.config = config

        self.checkpoints = Checkpoints(folder / "checkpoints", keep)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        self.normalizers = StepNormalizers(detector) if accumulate > 1 else None
        self.average: AveragedModel | None = None
        if ema is not None:
            average = get_ema_multi_avg_fn(ema)
            self.average = AveragedModel(detector, multi_avg_fn=average, use_buffers=True)
        self.model: nn.Module = detector
        if distributed.world() > 1:
            self.model = DistributedDataParallel(detector, gradient_as_bucket_view=True)
            # Statistics of norms are each process's own, as in the published systems. (The argument
            # of the same name is deprecated in newer versions.)
            self.model.broadcast_buffers = False
        self.iteration = 0
        self.skipped = 0  # steps without an update
        self.skipped_in_a_row = 0

    @property
    def released(self) -> Detector:
        """What is evaluated and released: the moving average where there is one."""
        return self.average.module if self.average else self.detector  # type: ignore[return-value]

    def run(self) -> int:
        """Train up to the end of the schedule.

        Returns:
            0, or the number of the signal that stopped it, after a checkpoint was saved.

        Raises:
            NonFiniteLossError: a loss is NaN or infinite, see `nan`.
        """
        leader, end = distributed.rank() == 0, self.schedule.iterations
        log = Log(self.folder, self.iteration, self.loggers, self.config) if leader else None
        self.detector.train()
        meter = Meter()
        stream = iter(self.batches(self.iteration))  # forks workers: before the screen has a thread
        with StopSignals(leader) as signals, Screen(end, self.iteration, leader) as screen:
            if self.iteration and distributed.broadcast(log and not log.evaluated(self.iteration)):
                self._evaluate(log, screen)  # the run was stopped before it could
            while self.iteration < end:
                with meter.waiting():
                    images, targets = next(stream)
                losses, stop = self.step(images, targets, bool(signals.received))
                self.iteration += 1
                stop = stop and self.iteration < end
                meter.add(losses, len(images) * distributed.world(), targets)
                screen.advance(self.iteration)
                if self._is_due(self.log_every):
                    record = self._stamp(meter.record(self.device))
                    screen.show(record)
                    if log:
                        log.write(record)
                with meter.paused():
                    if stop or self._is_due(self.checkpoint_every, self.evaluate_every):
                        self.save()
                    if stop:
                        screen.say(f"stopped after iteration {self.iteration}, which is saved")
                        return signals.received or signal.SIGTERM
                    self._evaluate(log, screen)
            if leader:
                path = self.folder / f"{self.name}.pth"
                release(self.released.state_dict(), self.detector.classes, self.name, path)
                screen.say(f"trained: {path}")
        return 0

    def step(
        self, images: list[Tensor], targets: list[Target], stop: bool = False
    ) -> tuple[dict[str, float], bool]:
        """One update of the weights, from this process's share of the images.

        Returns:
            The losses and the gradient's norm, averaged over ranks; and whether any rank was asked
            to stop.
        """
        self.schedule.apply(self.optimizer, self.iteration)
        statistics = self._statistics() if self.nan == "skip" else []
        losses = self._backward(images, targets)
        # One exchange tells everybody the losses and whether anybody is to stop.
        asked = torch.full_like(losses["loss"], float(stop))
        values = torch.stack([*losses.values(), asked])
        values = distributed.average(values)
        self.scaler.unscale_(self.optimizer)
        norm = get_total_norm([p.grad for p in self.detector.parameters() if p.grad is not None])
        *means, stopped, size = torch.cat((values, norm[None])).tolist()

        # Infinite gradients are the fp16 scaler's daily business; infinite losses are not.
        if all(map(math.isfinite, means)) and (self.scaler.is_enabled() or math.isfinite(size)):
            self.skipped_in_a_row = 0
            if self.clip_norm is not None:
                clip_grads_with_norm_(self.detector.parameters(), self.clip_norm, norm)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if self.average:
                self.average.update_parameters(self.detector)
        else:
            self._skip(losses, targets, statistics)
        self.optimizer.zero_grad()
        found = {**dict(zip(losses, means, strict=True)), "grad_norm": size}
        return {key: value for key, value in found.items() if math.isfinite(value)}, stopped > 0

    def _backward(self, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """Add up the gradients of all parts; returns the step's losses, their sum among them."""
        parts = split(images, targets, self.accumulate)
        losses: dict[str, Tensor] = {}
        try:
            own = self._normalizers(parts)
            for number, (part, normalizers) in enumerate(zip(parts, own, strict=True), 1):
                with self._exchanging(number == len(parts)):
                    with torch.autocast(self.device.type, self.dtype, self.dtype != torch.float32):
                        found = self.model(*part, normalizers)
                    found["loss"] = sum(found.values())
                    self.scaler.scale(found["loss"]).backward()
                for key, value in found.items():
                    losses[key] = losses.get(key, 0) + value.detach()
        except torch.OutOfMemoryError as error:
            shapes = " ".join(f"{image.shape[-1]}x{image.shape[-2]}" for image in parts[0][0])
            raise RuntimeError(
                f"out of GPU memory at {len(parts[0][0])} images at a time ({shapes}): raise "
                f"solver.accumulate (now {self.accumulate}; the total batch stays the same), or "
                "set solver.recompute=true or solver.precision=bf16"
            ) from error
        return losses

    def _normalizers(self, parts: Sequence[Part]) -> Sequence[Tensor | None]:
        """What each part's losses are divided by; None where the part is all there is."""
        if self.normalizers is None:
            return [None] * len(parts)
        return self.normalizers(parts).split(len(parts[0][0]), dim=1)

    def _exchanging(self, last: bool) -> AbstractContextManager[Any]:
        """Ranks exchange gradients in the last part alone."""
        if last or not isinstance(self.model, DistributedDataParallel):
            return nullcontext()
        return self.model.no_sync()

    def _statistics(self) -> list[tuple[Tensor, Tensor]]:
        """Buffers that a forward pass changes, and copies of them."""
        stateful = [m for m in self.detector.modules() if isinstance(m, _BatchNorm)]
        buffers = [b for module in (*stateful, self.detector.loss) for b in module.buffers()]
        return [(buffer, buffer.clone()) for buffer in buffers]

    def _skip(
        self,
        losses: dict[str, Tensor],
        targets: list[Target],
        statistics: list[tuple[Tensor, Tensor]],
    ) -> None:
        """Leave the weights as they were, or stop."""
        self.skipped += 1
        self.skipped_in_a_row += 1
        self.scaler.update()
        if self.nan == "skip" and self.skipped_in_a_row < SKIPS:
            for buffer, before in statistics:
                buffer.copy_(before)
            return
        if all(bool(value.isfinite()) for value in losses.values()):
            where = "the gradient, or the loss of another process, is"
        else:
            where = "the loss is"
        names = ", ".join(str(target.get("file_name", "?")) for target in targets)
        values = ", ".join(f"{key} {value.item():.4g}" for key, value in losses.items())
        raise NonFiniteLossError(
            f"iteration {self.iteration}: {where} not finite ({values}); this process's images: "
            f"{names}. Lower solver.base_lr, set solver.clip_norm, or solver.nan=skip"
        )

    def _evaluate(self, log: Log | None, screen: Screen) -> None:
        """Measure if it is time to; the best weights so far are kept."""
        if self.evaluate is None or not self._is_due(self.evaluate_every):
            return
        for buffer in self.released.buffers():  # each rank's norms have seen other images
            distributed.copy_from_leader(buffer)
        with screen.paused():
            figures = self._stamp(self.evaluate(self.released))
        screen.say(_summary(figures))
        if log is None:
            return
        best = max((record["AP"] or 0 for record in log.evaluations), default=-1)
        if figures["AP"] is not None and figures["AP"] > best:
            weights = self.released.state_dict()
            release(weights, self.detector.classes, self.name, self.folder / "best.pth")
        log.write(figures)

    def _is_due(self, *every: int) -> bool:
        return self.iteration == self.schedule.iterations or any(
            self.iteration % each == 0 for each in every
        )

    def _stamp(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "iteration": self.iteration,
            "epoch": self.iteration / self.epoch,
            **record,
            "rate": self.optimizer.param_groups[0]["lr"],
            "skipped_steps": self.skipped,
        }

    def save(self) -> None:
        """Write a checkpoint of everything that the next iteration depends on."""
        random_states = distributed.gather(random_state(self.device))
        if distributed.rank() == 0:
            state = {
                "iteration": self.iteration,
                "epoch": self.epoch,
                "model": self.detector.state_dict(),
                "moving_positives": self.detector.loss.moving_positives,
                "average": self.average.state_dict() if self.average else None,
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "random": random_states,
                "skipped": [self.skipped, self.skipped_in_a_row],
            }
            self.checkpoints.save(state, self.iteration)
        distributed.barrier()  # nobody leaves before it is whole

    def resume(self) -> bool:
        """Go on from the newest whole checkpoint; False where there is none.

        Rates, decays and the like are those that the optimiser was made with now.

        Raises:
            ValueError: every checkpoint is damaged, or the run had another total batch or dataset.
        """
        found = self.checkpoints.newest() if distributed.rank() == 0 else None
        state, damaged = distributed.broadcast(found)
        for path in damaged:
            warnings.warn(f"{path} is damaged: an older checkpoint is taken", stacklevel=2)
        if state is None:
            return False
        if state["epoch"] != self.epoch:
            raise ValueError(
                f"{self.folder} was trained with epochs of {state['epoch']:g} iterations, not "
                f"{self.epoch:g}: resume with the same solver.batch and dataset"
            )
        if (state["average"] is None) != (self.average is None):
            raise ValueError(f"{self.folder} was trained with another solver.ema")
        self.iteration = state["iteration"]
        self.detector.load_state_dict(state["model"])
        self.detector.loss.moving_positives.copy_(state["moving_positives"])
        if self.average:
            self.average.load_state_dict(state["average"])
        own = [{k: v for k, v in g.items() if k != "params"} for g in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, options in zip(self.optimizer.param_groups, own, strict=True):
            group.update(options)  # rates and decays are those that this run was started with
        if state["scaler"]:  # of a run in fp16
            self.scaler.load_state_dict(state["scaler"])
        if distributed.rank() < len(state["random"]):
            set_random_state(state["random"][distributed.rank()], self.device)
        self.skipped, self.skipped_in_a_row = state["skipped"]
        return True


def _summary(figures: Mapping[str, Any]) -> str:
    cells = [
        f"{key} {figures[key]:.4f}"
        for key in ("AP", "AP50", "AP75", "APs", "APm", "APl")
        if figures.get(key) is not None
    ]
    return f"iteration {figures['iteration']}: {'  '.join(cells)}"
