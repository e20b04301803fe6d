"""A suite: which cells to measure, and the run through all of them."""

from __future__ import annotations

import itertools
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

import zoo
from benchmarks import environment, pictures, weights, worker
from benchmarks.cell import METRICS, STATIC, Cell, Dataset, Outcome, Pace, Weights
from benchmarks.store import Row, Store, row_of


@dataclass(frozen=True)
class Suite:
    """What to measure; every combination is a cell.

    Args:
        entries: names of the zoo, shell wildcards among them.
        metrics, precisions: see `benchmarks.cell`.
        device, threads, size, compiled, layout, pace: see `benchmarks.cell.Cell`.
        batches: of throughput.
        dataset: the images; None for the embedded ones.
        limit: how many of them speed and memory are measured on.
        ap_limit: how many of them AP is measured on.
        weights_files, weights_folder: a user's weights, see `benchmarks.weights.resolve`.
        cached_only: published weights are never downloaded.
        random_weights: speed and memory are measured, and labelled so, where there are no weights.
        timeout: seconds a cell may take.
    """

    entries: Sequence[str]
    metrics: Sequence[str] = ("params", "flops", "latency", "memory", "ap")
    precisions: Sequence[str] = ("fp32",)
    device: str = "cpu"
    threads: int | None = None
    size: tuple[int, int] | None = None
    batches: Sequence[int] = (1,)
    compiled: Sequence[bool] = (False,)
    layouts: Sequence[str] = ("channels_last",)
    dataset: Dataset | None = None
    limit: int | None = None
    ap_limit: int | None = None
    pace: Pace = field(default_factory=Pace)
    weights_files: Mapping[str, Path] = field(default_factory=dict)
    weights_folder: Path | None = None
    cached_only: bool = False
    random_weights: bool = True
    timeout: float = 600.0

    def names(self) -> list[str]:
        """The entries that its patterns name, in the order of the patterns.

        Raises:
            LookupError: one names nothing.
        """
        found: dict[str, None] = {}
        for pattern in self.entries:
            matches = zoo.names(pattern)
            if not matches:
                zoo.card(pattern)  # raises, with the nearest names
            found.update(dict.fromkeys(matches))
        return list(found)

    def cells(self) -> list[Cell]:
        """Every cell, those of an entry together; weights are fetched here."""
        unknown = [metric for metric in self.metrics if metric not in METRICS]
        if unknown:
            raise ValueError(f"no metric {unknown[0]!r}; there are {', '.join(METRICS)}")
        metrics = [metric for metric in METRICS if metric in self.metrics]
        dataset = self.dataset or pictures.embedded()
        cells: list[Cell] = []
        for entry in self.names():
            filled = Weights(note="not needed")
            if set(metrics) - STATIC:
                filled = weights.resolve(
                    entry, self.weights_files, self.weights_folder, self.cached_only
                )
            for metric in metrics:
                cells += self._of_metric(entry, metric, dataset, filled)
        return list(dict.fromkeys(cells))

    def _of_metric(
        self, entry: str, metric: str, dataset: Dataset, filled: Weights
    ) -> Iterator[Cell]:
        """A metric's cells, each with only those settings that matter to it."""
        if metric in ("params", "flops"):  # these cost little: at the published size always
            yield Cell(entry, metric)
        elif metric == "training_memory":
            yield Cell(entry, metric, device=self.device)
        elif metric == "ap":
            for precision in self.precisions:
                yield Cell(
                    entry,
                    metric,
                    device=self.device,
                    precision=precision,
                    size=self.size,
                    threads=self.threads,
                    dataset=dataset,
                    limit=self.ap_limit,
                    weights=filled,
                )
        else:
            batches = self.batches if metric == "throughput" else (1,)
            for precision, layout, compiled, batch in itertools.product(
                self.precisions, self.layouts, self.compiled, batches
            ):
                yield Cell(
                    entry,
                    metric,
                    self.device,
                    precision,
                    batch,
                    self.size,
                    self.threads,
                    compiled,
                    layout,
                    dataset,
                    self.limit,
                    self.pace if metric != "memory" else Pace(),
                    filled,
                )


def run(
    suite: Suite,
    store: Store,
    fresh: bool = False,
    command: str | None = None,
    console: Console | None = None,
) -> list[Row]:
    """Measure a suite's cells, each row on disk as soon as it is there.

    Args:
        suite: what to measure.
        store: where rows go; cells that it holds for this machine and code are not repeated.
        fresh: measure them again.
        command: what the user typed, for the record.
        console: for progress; silent where it is no terminal.

    Returns:
        A row for each cell, in the suite's order, old ones included.
    """
    facts = environment.describe(suite.device)
    command = command or shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    cells = suite.cells()
    rows = {} if fresh else store.done(facts)
    waiting = [cell for cell in cells if cell.key not in rows]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = console or Console(stderr=True)
    with Progress(
        *columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("", total=len(waiting))
        for job in jobs(waiting):
            progress.update(task, description=describe(job[0]))
            for cell, outcome in measured(job, suite):
                row = row_of(cell, outcome, facts, command)
                store.append(row)
                rows[cell.key] = row
                progress.advance(task)
    return [rows[cell.key] for cell in cells]


def measured(job: Sequence[Cell], suite: Suite) -> Iterator[tuple[Cell, Outcome]]:
    """Outcomes of a job's cells; where weights are missing no process is started to find out."""
    ready = []
    for cell in job:
        lacking = cell.metric not in STATIC and cell.weights.source == "random"
        if lacking and (cell.metric == "ap" or not suite.random_weights):
            yield cell, Outcome("missing", reason=cell.weights.note)
        else:
            ready.append(cell)
    yield from worker.run(ready, suite.timeout)


def jobs(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells by process: one each, but for the metrics of an entry that nothing disturbs."""
    grouped: dict[Any, list[Cell]] = {}
    for cell in cells:
        shared = cell.metric in STATIC
        grouped.setdefault((cell.entry, cell.device) if shared else cell, []).append(cell)
    return list(grouped.values())


def describe(cell: Cell) -> str:
    """A cell in a few words, for progress."""
    metric = "parameters, GFLOPs" if cell.metric in STATIC else f"{cell.metric} {cell.precision}"
    return f"{cell.entry}: {metric}"
