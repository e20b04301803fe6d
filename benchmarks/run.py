"""The run through a suite's cells: one process after the other, each row kept at once."""

from __future__ import annotations

import math
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import environment, latency, worker
from benchmarks.cell import STATIC, TIMED, Cell, Outcome
from benchmarks.store import Row, Store, row_of
from benchmarks.suite import Suite

NOT_STARTED = "not started"  # how the reason of a cell begins that the budget left out
COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
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
        A row for each cell of the suite (of its shard), old ones included, in the suite's order.
    """
    facts = environment.describe(suite.device)
    command = command or typed()
    console = console or Console(stderr=True)
    cells = suite.cells()
    jobs = suite.jobs(cells)
    done = {} if fresh else store.done(facts)
    waiting = [[cell for cell in job if cell.key not in done] for job in jobs]
    rows: dict[str, Row] = dict(done)
    end = time.monotonic() + (suite.budget or math.inf)
    with Progress(*COLUMNS, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=sum(map(len, waiting)))
        for job in filter(None, waiting):
            progress.update(task, description=describe(job[0]))
            for cell, outcome in outcomes(job, suite, rows, time.monotonic() > end):
                row = row_of(cell, outcome, facts, command)
                store.append(row)
                rows[cell.key] = row
                progress.advance(task)
    mine = {cell.key for job in jobs for cell in job}
    return [rows[cell.key] for cell in cells if cell.key in mine]


def typed() -> str:
    """The command line of this process, as it can be typed again; torchrun's share included."""
    program = Path(sys.argv[0])
    module = program.suffix == ".py"  # python -m and torchrun -m give the file
    words = ["python", "-m", f"{program.parent.name}.{program.stem}"] if module else [program.name]
    words += sys.argv[1:]
    if "WORLD_SIZE" in os.environ:
        words.append(f"--shard={os.environ['RANK']}/{os.environ['WORLD_SIZE']}")
    return shlex.join(words)


def outcomes(
    job: Sequence[Cell], suite: Suite, rows: dict[str, Row], late: bool = False
) -> Iterator[tuple[Cell, Outcome]]:
    """What comes of a job's cells; none starts a process to find out what is known already."""
    ready = []
    for cell in job:
        reason = hopeless(cell, suite, rows)
        if reason is None and late:
            reason = f"{NOT_STARTED}: the suite's {suite.budget:.0f} s were over"
        if reason is None:
            ready.append(cell)
        else:
            yield cell, Outcome("missing", reason=reason)
    if ready and ready[0].metric in TIMED:
        yield from ((cell, timed(cell, suite)) for cell in ready)
    elif ready:
        yield from worker.run(ready, suite.timeout)


def timed(cell: Cell, suite: Suite) -> Outcome:
    """A time measured in several processes; where one of them fails, that is what came of it."""
    found: list[Outcome] = []
    for _ in range(suite.processes):
        [(_, outcome)] = worker.run([cell], suite.timeout)
        if outcome.status != "measured":
            return outcome
        found.append(outcome)
    values = latency.join([outcome.values for outcome in found])
    if cell.metric == "throughput":
        values["images_per_second"] = 1e3 * cell.batch / values["median"]
    return Outcome("measured", values, seconds=sum(outcome.seconds for outcome in found))


def hopeless(cell: Cell, suite: Suite, rows: dict[str, Row]) -> str | None:
    """Why a cell need not be tried: no weights, or a smaller batch did not fit or end in time."""
    lacking = cell.metric not in STATIC and cell.weights.source == "random"
    if lacking and (cell.metric == "ap" or not suite.random_weights):
        return cell.weights.note
    for batch in suite.batches if cell.metric == "throughput" else ():
        smaller = rows.get(replace(cell, batch=batch).key) if batch < cell.batch else None
        if smaller and smaller["status"] in ("out of memory", "timed out"):
            return f"batch {batch} was {smaller['status']} already"
    return None


def describe(cell: Cell) -> str:
    """A cell in a few words, for progress."""
    metric = "parameters, GFLOPs" if cell.metric in STATIC else f"{cell.metric} {cell.precision}"
    return f"{cell.entry}: {metric}"
