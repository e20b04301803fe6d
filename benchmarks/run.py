"""The run through a suite's cells: one process after the other, each row kept at once.

A time is measured in several processes, one in each pass over the suite, so that they see the
machine in its better and in its worse minutes. After every pass its row stands in the store, made
of all processes so far: a suite that is cut short has every figure, of fewer processes.
"""

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
        A row for each cell of the suite (of its shard), old ones included, in the suite's order;
        of a time whose later process failed, that failure.
    """
    facts = environment.describe(suite.device)
    command = command or typed()
    console = console or Console(stderr=True)
    cells = suite.cells()
    jobs = suite.jobs(cells)
    rows = {} if fresh else {k: r for k, r in store.done(facts).items() if complete(r, suite)}
    waiting = [[cell for cell in job if cell.key not in rows] for job in jobs]
    again = [job for job in waiting if job and job[0].metric in TIMED]
    measured: dict[str, list[Outcome]] = {}  # by cell, what each process of a time gave
    end = time.monotonic() + (suite.budget or math.inf)
    with Progress(*COLUMNS, console=console, disable=not console.is_terminal) as progress:
        passes = suite.processes - 1
        task = progress.add_task("", total=sum(map(len, waiting)) + passes * len(again))

        def measure(job: Sequence[Cell]) -> None:
            progress.update(task, description=describe(job[0]))
            for cell, outcome in outcomes(job, suite, rows, time.monotonic() > end):
                row = row_of(cell, so_far(cell, outcome, measured), facts, command)
                store.append(row)
                rows[cell.key] = row
                progress.advance(task)

        for job in filter(None, waiting):
            measure(job)
        for job in again * passes:
            if time.monotonic() <= end and rows[job[0].key]["status"] == "measured":
                measure(job)
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
    if ready:
        yield from worker.run(ready, suite.timeout)


def so_far(cell: Cell, outcome: Outcome, measured: dict[str, list[Outcome]]) -> Outcome:
    """What came of a cell; of a timed one, together with its processes `measured` before."""
    if cell.metric not in TIMED or outcome.status != "measured":
        return outcome
    found = measured.setdefault(cell.key, [])
    found.append(outcome)
    values = latency.join([one.values for one in found])
    if cell.metric == "throughput":
        values["images_per_second"] = 1e3 * cell.batch / values["median"]
    return Outcome("measured", values, seconds=sum(one.seconds for one in found))


def complete(row: Row, suite: Suite) -> bool:
    """Whether a measured row has as many processes as the suite wants."""
    return bool(row["values"].get("processes", suite.processes) >= suite.processes)


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
