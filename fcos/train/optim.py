"""Optimiser and learning-rate schedule of the published recipes."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.modules.batchnorm import _BatchNorm

from fcos.checked import checked
from fcos.settings import WarmupMethod

Config = Mapping[str, Any]
NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)


def make_optimizer(
    model: nn.Module,
    base_lr: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    *,
    norm_weight_decay: float | None = None,
    bias_lr_factor: float = 1.0,
    bias_weight_decay: float | None = None,
    fused: bool | None = None,
) -> torch.optim.SGD:
    """Make an SGD of all trained parameters, grouped by learning rate and weight decay.

    detectron2 and OpenMMLab have a separate decay for norms, OpenMMLab and maskrcnn-benchmark a
    separate rate and decay for biases. Each group has its rate before the schedule as "base_lr".

    Args:
        norm_weight_decay: weight decay of norms, including their biases, to which the next two then
            do not apply; None treats norms like other layers (maskrcnn-benchmark).
        bias_lr_factor, bias_weight_decay: factor on the learning rate of biases, and their weight
            decay, None for `weight_decay`.
        fused: update in one kernel, which also skips an update with a non-finite gradient without
            waiting for the GPU; None uses it on GPUs.
    """
    if fused is None:
        fused = next(model.parameters()).is_cuda
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            rate, decay = base_lr, weight_decay
            if isinstance(module, NORMS) and norm_weight_decay is not None:
                decay = norm_weight_decay
            elif name == "bias":
                rate = base_lr * bias_lr_factor
                decay = weight_decay if bias_weight_decay is None else bias_weight_decay
            groups[rate, decay].append(parameter)
    optimizer = torch.optim.SGD(
        [
            {"params": parameters, "lr": rate, "base_lr": rate, "weight_decay": decay}
            for (rate, decay), parameters in groups.items()
        ],
        lr=base_lr,
        momentum=momentum,
        fused=fused or None,  # False would select the slow loop over tensors
    )
    if momentum:
        # torch would create them in the first step, uninitialised if a fused one skips its update.
        for parameter in (p for parameters in groups.values() for p in parameters):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def update_where(finite: Tensor, optimizer: torch.optim.Optimizer, scaler: GradScaler) -> None:
    """Update the weights if `finite`, a () bool tensor, says that the gradient is finite.

    With a fused optimiser, the device itself decides; with others, the host waits for it.
    """
    if scaler.is_enabled():
        scaler.step(optimizer)
        scaler.update()
    elif optimizer.param_groups[0].get("fused"):
        optimizer.found_inf = 1 - finite.float()  # type: ignore[attr-defined]
        optimizer.step()
    elif finite:
        optimizer.step()


@checked
@dataclass(frozen=True)
class Schedule:
    """The learning rate by iteration: warm-up, then a drop at each step.

    Its only state is the iteration, counted from 0.

    Args:
        iterations: the length of the training.
        steps: iterations at which the rate is multiplied by `gamma`.
        warmup: "linear" from `warmup_factor` to 1, or "constant" at `warmup_factor`, over the first
            `warmup_iterations`.
    """

    iterations: int
    steps: Sequence[int] = ()
    gamma: float = 0.1
    warmup: WarmupMethod = "linear"
    warmup_iterations: int = 0
    warmup_factor: float = 1.0

    def __post_init__(self) -> None:
        if list(self.steps) != sorted(self.steps):
            raise ValueError(f"schedule steps {list(self.steps)} are not in ascending order")

    def __call__(self, iteration: int) -> float:
        """Return the factor on every group's base rate."""
        factor = self.gamma ** bisect_right(self.steps, iteration)
        if iteration >= self.warmup_iterations:
            return factor
        if self.warmup == "constant":
            return factor * self.warmup_factor
        done = iteration / self.warmup_iterations
        return factor * (self.warmup_factor * (1 - done) + done)

    def apply(self, optimizer: torch.optim.Optimizer, iteration: int) -> None:
        """Set the learning rates of an iteration."""
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * self(iteration)


def build_schedule(config: Config, epoch: float) -> Schedule:
    """Build the schedule of a run's configuration; an epoch has `epoch` iterations."""
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


def resolved(config: Config, recipe: Config) -> tuple[Config, list[str]]:
    """Resolve `epochs` and `solver.scale_lr`; returns the settings, and lines on the changes.

    The steps of the recipe's schedule keep their fraction of the training; other steps stay as they
    are. `schedule.epochs` and `schedule.step_epochs` replace the recipe's `iterations` and `steps`.
    With `solver.scale_lr` the rate is proportional to the batch (arXiv:1706.02677).

    Args:
        config: the configuration of the run.
        recipe: the model's configuration.

    Raises:
        ValueError: both `epochs` and the length of the schedule are given.
    """
    epochs, schedule, usual = config["epochs"], config["schedule"], recipe["schedule"]
    for key, in_epochs in (("iterations", "epochs"), ("steps", "step_epochs")):
        if schedule.get(in_epochs) != usual.get(in_epochs) and schedule[key] == usual[key]:
            schedule = {**schedule, key: None}
    config = {**config, "schedule": schedule}
    if epochs is not None:
        if any(schedule.get(key) != usual.get(key) for key in ("iterations", "epochs")):
            raise ValueError("epochs and schedule.iterations are both given: leave one of them out")
        changed = {**schedule, "iterations": None, "epochs": epochs}
        if schedule == usual:
            length = usual.get("epochs") or usual["iterations"]
            steps = usual["step_epochs"] if usual.get("epochs") else usual["steps"]
            changed |= {"steps": None, "step_epochs": [epochs * step / length for step in steps]}
        config = {**config, "epochs": None, "schedule": changed}

    solver, usual_batch = config["solver"], recipe["solver"]["batch"]
    batch, rate = solver["batch"], solver["base_lr"]
    if batch == usual_batch:
        return config, []
    scaled = rate * batch / usual_batch
    if solver["scale_lr"]:
        line = f"solver.base_lr={scaled:g}: {rate:g} is for batches of {usual_batch}, not {batch}"
        return {**config, "solver": {**solver, "base_lr": scaled, "scale_lr": False}}, [line]
    return config, [
        f"solver.batch={batch} is not the recipe's {usual_batch}, which solver.base_lr={rate:g} is "
        f"for: solver.scale_lr=true would make it {scaled:g}"
    ]
