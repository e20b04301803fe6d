"""Metrics of a run: measured between two records, kept as JSON lines, read again as curves."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from fcos.train.loggers import LOGGERS, Record, Write


class Meter:
    """Averages between two records: losses, rate of images, time spent waiting for them."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.start = time.perf_counter()
        self.values: dict[str, list[float]] = defaultdict(list)
        self.images = self.unreadable = 0
        self.waited = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent here is spent waiting for data."""
        start = time.perf_counter()
        yield
        self.waited += time.perf_counter() - start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent here is not the training's."""
        start = time.perf_counter()
        yield
        self.start += time.perf_counter() - start

    def add(
        self, losses: Mapping[str, float], images: int, targets: Sequence[Mapping[str, Any]]
    ) -> None:
        """Count a step of so many images in all processes, with this one's targets."""
        for key, value in losses.items():
            self.values[key].append(value)
        self.images += images
        self.unreadable += sum(target.get("skipped", 0) for target in targets)

    def record(self, device: torch.device) -> Record:
        """The averages since the last record."""
        seconds = max(time.perf_counter() - self.start, 1e-9)
        record: Record = {key: sum(each) / len(each) for key, each in self.values.items()}
        record["images_per_second"] = self.images / seconds
        record["waiting_for_data"] = self.waited / seconds
        record["memory_mib"] = memory(device)
        record["images"] = self.images
        record["unreadable_images"] = self.unreadable
        self.reset()
        return record


def memory(device: torch.device) -> int:
    """Peak memory in MiB: allocated on a GPU, else resident of this process, 0 if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    try:
        import resource
    except ImportError:  # Windows has none
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> (20 if sys.platform == "darwin" else 10)


class Log:
    """Metrics of a run, in `metrics.jsonl` and wherever else.

    Args:
        folder: of the run.
        iteration: where the run goes on; records after it, of a run that was killed, are dropped.
        loggers: "tensorboard", "wandb" or "mlflow"; one that is not installed is left out.
        config: the run's configuration, for those that keep it.

    Attributes:
        evaluations: the records with an AP.
    """

    def __init__(
        self,
        folder: Path,
        iteration: int = 0,
        loggers: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = folder / "metrics.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        kept = [r for r in read(self.path) if r["iteration"] <= iteration] if iteration else []
        part = self.path.with_suffix(".part")
        part.write_text("".join(json.dumps(record) + "\n" for record in kept))
        os.replace(part, self.path)
        self.evaluations = [record for record in kept if "AP" in record]
        self.writers: list[Write] = []
        for name in loggers:
            if name not in LOGGERS:
                raise ValueError(f"no logger {name!r}; there are {', '.join(LOGGERS)}")
            try:
                self.writers.append(LOGGERS[name](folder, iteration, config or {}))
            except ImportError:
                continue

    def evaluated(self, iteration: int) -> bool:
        """Whether the AP of the weights after so many iterations is known."""
        return any(record["iteration"] == iteration for record in self.evaluations)

    def write(self, record: Record) -> None:
        """Append a record; it has an "iteration"."""
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        if "AP" in record:
            self.evaluations.append(record)
        for writer in self.writers:
            writer(record)


def read(path: Path) -> list[Record]:
    """The records of a `metrics.jsonl`; a last line that was cut short is left out."""
    records = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def curves(folder: str | Path) -> dict[str, list[float]]:
    """AP by training time: arrays "iteration", "epoch", "AP", "AP50" and "AP75" of a run.

    Raises:
        FileNotFoundError: the run has no evaluations.
    """
    path = Path(folder) / "metrics.jsonl"
    evaluations = [record for record in read(path) if "AP" in record]
    if not evaluations:
        raise FileNotFoundError(f"{path} holds no evaluations: is {folder} a training run?")
    keys = ("iteration", "epoch", "AP", "AP50", "AP75")
    return {key: [record[key] for record in evaluations] for key in keys}
