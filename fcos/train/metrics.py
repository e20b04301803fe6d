"""Metrics of a run: averaged over steps, shown on the terminal, written to a file and loggers."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich import progress
from torch import Tensor

from fcos.coco_eval import FIGURES, percent
from fcos.settings import LoggerName
from fcos.text import TextConsole
from fcos.train import distributed
from fcos.train.memory import peak_memory

Record = dict[str, Any]
Write = Callable[[Record], None]


class Step(NamedTuple):
    """The results of a step, after the device has computed them."""

    iteration: int
    local: dict[str, float]  # losses of this process and the norm of the gradient
    mean: dict[str, float]  # the same, averaged over processes
    files: list[str]  # this process's images


class NonFiniteLossError(RuntimeError):
    """A loss or gradient is NaN or infinite; the message names the step and its images."""

    def __init__(self, step: Step) -> None:
        losses = {name: value for name, value in step.local.items() if name != "grad_norm"}
        where = "the loss is"
        if all(map(math.isfinite, losses.values())):
            where = "the gradient, or the loss of another process, is"
        values = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
        super().__init__(
            f"iteration {step.iteration}: {where} not finite ({values}); this process's images: "
            f"{', '.join(step.files)}. Lower solver.base_lr, set solver.clip_norm, or "
            "solver.on_nonfinite=skip"
        )


class Meter:
    """Averages over the steps between two records.

    Losses stay on the device until `read` waits for it.
    """

    def __init__(self) -> None:
        self._unread: list[tuple[int, dict[str, Tensor], list[str]]] = []
        self._reset()

    def _reset(self) -> None:
        self.start = time.perf_counter()
        self.values: dict[str, list[float]] = defaultdict(list)
        self.images = self.unreadable = 0
        self.seconds_waiting = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time spent in this block as waiting for data."""
        start = time.perf_counter()
        yield
        self.seconds_waiting += time.perf_counter() - start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time spent in this block from the images per second."""
        start = time.perf_counter()
        yield
        self.start += time.perf_counter() - start

    def add(
        self, iteration: int, losses: dict[str, Tensor], targets: Sequence[Mapping[str, Any]]
    ) -> None:
        """Count a step, with the targets of this process's share of it."""
        files = [str(target.get("file_name", "?")) for target in targets]
        self._unread.append((iteration, losses, files))
        self.images += len(targets) * distributed.world()
        self.unreadable += sum(target.get("skipped", 0) for target in targets)

    def read(self) -> list[Step]:
        """Return the steps since the last call; waits for the device, and for all processes."""
        if not self._unread:
            return []
        local = torch.stack([torch.stack(list(losses.values())) for _, losses, _ in self._unread])
        mean = distributed.average(local.clone())
        steps = [
            Step(
                iteration,
                dict(zip(losses, own, strict=True)),
                dict(zip(losses, average, strict=True)),
                files,
            )
            for (iteration, losses, files), own, average in zip(
                self._unread, local.tolist(), mean.tolist(), strict=True
            )
        ]
        self._unread.clear()
        for step in steps:
            for name, value in step.mean.items():
                if math.isfinite(value):
                    self.values[name].append(value)
        return steps

    def record(self, device: torch.device) -> Record:
        """Return the averages over the steps that were read since the last record."""
        seconds = max(time.perf_counter() - self.start, 1e-9)
        record: Record = {key: sum(each) / len(each) for key, each in self.values.items()}
        record["images_per_second"] = self.images / seconds
        record["waiting_for_data"] = self.seconds_waiting / seconds
        record["memory_mib"] = peak_memory(device)
        record["images"] = self.images
        unreadable = distributed.average(torch.tensor(float(self.unreadable)))
        record["unreadable_images"] = round(unreadable.item() * distributed.world())
        self._reset()
        return record


class Log:
    """On rank 0, shows the metrics of a run and writes them to `metrics.jsonl` and to loggers.

    A terminal shows a progress bar while `bar` is entered; elsewhere each record is a line.

    Args:
        folder: the folder of the run.
        iteration: the iteration at which the run resumes; later records of a killed run are
            dropped.
        total: the number of iterations of the schedule.
        loggers: names of loggers; those that are not installed are left out.
        config: the run's configuration, for loggers that store it.

    Attributes:
        evaluations: the records with an AP.
    """

    def __init__(
        self,
        folder: Path,
        iteration: int = 0,
        total: int = 0,
        loggers: Sequence[LoggerName] = (),
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.shown = distributed.rank() == 0
        self.first, self.total, self.started = iteration, total, time.monotonic()
        self.console = TextConsole(stderr=True, quiet=not self.shown, soft_wrap=True)
        self.bar = progress.Progress(
            progress.TextColumn("training"),
            progress.BarColumn(bar_width=16),
            progress.MofNCompleteColumn(),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.description}"),
            console=self.console,
            transient=True,
            disable=not (self.shown and self.console.is_terminal),
        )
        self.task = self.bar.add_task("", total=total, completed=iteration)
        self.path = folder / "metrics.jsonl"
        self.evaluations: list[Record] = []
        self.writers: list[Write] = []
        if not self.shown:
            return
        folder.mkdir(parents=True, exist_ok=True)
        kept = [r for r in read(self.path) if r["iteration"] <= iteration] if iteration else []
        part = self.path.with_suffix(".part")
        part.write_text("".join(json.dumps(record) + "\n" for record in kept))
        os.replace(part, self.path)
        self.evaluations = [record for record in kept if "AP" in record]
        for name in loggers:
            with suppress(ImportError):  # see `missing`
                self.writers.append(LOGGERS[name](folder, iteration, config or {}))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Hide the bar and stop its thread while something else uses the terminal or forks.

        A process forked while the thread draws would inherit its locks and could wait for them
        forever.
        """
        self.bar.stop()
        try:
            yield
        finally:
            self.bar.start()

    def write(self, record: Record) -> None:
        """Show and append a record: an "iteration" with an "AP", or with losses and rates."""
        if not self.shown:
            return
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        for writer in self.writers:
            writer(record)
        if "AP" in record:
            self.evaluations.append(record)
            keys = [key for key in FIGURES[:6] if record.get(key) is not None]
            cells = "  ".join(f"{key} {percent(record[key])}" for key in keys)
            self.console.print(f"iteration {record['iteration']}: {cells}")
            return
        losses = [f"{k} {v:.4f}" for k, v in record.items() if k.startswith("loss")]
        losses = losses or ["no finite loss"]
        others = [
            f"{record['images_per_second']:.1f} images/s",
            f"rate {record['rate']:.2g}",
            f"waiting for data {record['waiting_for_data']:.0%}",
            f"{record['memory_mib']} MiB",
        ]
        if self.console.is_terminal:
            # The sum of the losses comes first, then as many figures as fit beside the bar.
            parts = [losses[-1], *others, *losses[:-1]]
            while len("  ".join(parts)) > self.console.width - 48 and len(parts) > 1:
                parts.pop()
            self.bar.update(self.task, description="  ".join(parts))
        else:
            text = "  ".join([*losses, *others])
            done = record["iteration"] - self.first
            left = (time.monotonic() - self.started) / done * (self.total - record["iteration"])
            time_left = timedelta(seconds=round(left))
            self.console.print(f"{record['iteration']}/{self.total}  {text}  left {time_left}")


def read(path: Path) -> list[Record]:
    """Read the records of a `metrics.jsonl`; truncated or damaged lines are left out."""
    records = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("iteration"), int):
            records.append(record)
    return records


def missing(loggers: Sequence[LoggerName]) -> list[LoggerName]:
    """Return the loggers that are not installed."""
    return [name for name in loggers if importlib.util.find_spec(name) is None]


def _scalars(record: Record) -> dict[str, float]:
    return {k: v for k, v in record.items() if isinstance(v, int | float) and k != "iteration"}


def _tensorboard(folder: Path, iteration: int, config: Mapping[str, Any]) -> Write:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=iteration)

    def write(record: Record) -> None:
        for key, value in _scalars(record).items():
            writer.add_scalar(key, value, record["iteration"])
        writer.flush()

    return write


def _wandb(folder: Path, iteration: int, config: Mapping[str, Any]) -> Write:
    wandb = importlib.import_module("wandb")
    # Runs of the same name in other folders are different runs.
    path_hash = hashlib.sha256(bytes(folder.resolve())).hexdigest()[:12]
    run = wandb.init(
        project="fcos-zoo", name=folder.name, id=f"{folder.name}-{path_hash}", dir=folder,
        config=dict(config), resume="allow",
    )  # fmt: skip
    return lambda record: run.log(_scalars(record), step=record["iteration"])


def _mlflow(folder: Path, iteration: int, config: Mapping[str, Any]) -> Write:
    mlflow = importlib.import_module("mlflow")
    mlflow.set_experiment("fcos-zoo")
    mlflow.start_run(run_name=folder.name)
    mlflow.log_dict(dict(config), "config.json")
    return lambda record: mlflow.log_metrics(_scalars(record), step=record["iteration"])


LOGGERS: dict[LoggerName, Callable[[Path, int, Mapping[str, Any]], Write]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
}
