"""Run the cases of a suite, each in its own process, and store every row at once.

A timed case is measured in several processes, one in each pass over the suite, so that they are
spread over different loads of the machine. After every pass, its row is stored with the results of
all processes so far: a suite that is interrupted has every figure, from fewer processes.
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

from benchmarks import environment, worker
from benchmarks.cases import ACCURACY, STATIC, TIMED, Case, Result
from benchmarks.inference import combine_processes
from benchmarks.store import Row, Store, row_of
from benchmarks.suite import Suite
from fcos.text import counted

NOT_STARTED = "not started"  # first words of the reason if there was no time left for a case
COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())


def run(
    suite: Suite,
    store: Store,
    fresh: bool = False,
    command: str | None = None,
) -> list[Row]:
    """Measure the cases of a suite, each row on disk as soon as it is measured.

    A terminal shows a progress bar.

    Args:
        suite: the suite to measure.
        store: where rows are stored; cases that it has for this machine and code are skipped.
        fresh: measure those again, too.
        command: the user's command, to be stored; None for the command line of this process.

    Returns:
        The row of each case of the suite (of its shard) in the suite's order, including skipped
        ones. If a later process of a timed case failed, its row is that failure.
    """
    return _Run(suite, store, fresh, command or command_line()).rows()


class _Run:
    """The state of `run`: the rows so far, and the end of its time."""

    def __init__(self, suite: Suite, store: Store, fresh: bool, command: str) -> None:
        self.suite = suite
        self.store = store
        self.command = command
        store.check()
        self.facts = environment.describe(suite.device)
        self.cases = suite.cases()
        self.jobs = suite.jobs(self.cases)
        stored = {} if fresh else store.done(self.facts)
        self.by_key = {key: row for key, row in stored.items() if is_complete(row, suite)}
        self.processes: dict[str, list[Result]] = {}  # results of timed cases, by case
        self.end = time.monotonic() + (suite.budget or math.inf)
        console = Console(stderr=True)
        self.progress = Progress(*COLUMNS, console=console, disable=not console.is_terminal)
        self.task = self.progress.add_task("")

    def rows(self) -> list[Row]:
        remaining = [[case for case in job if case.key not in self.by_key] for job in self.jobs]
        remaining = [job for job in remaining if job]
        repeated = [job for job in remaining if job[0].metric in TIMED]
        passes = self.suite.processes - 1
        total = sum(map(len, remaining)) + passes * len(repeated)
        self.progress.update(self.task, total=total)
        with self.progress:
            for number, job in enumerate(remaining):
                self.measure(job, jobs_left=len(remaining) - number)
            for job in repeated * passes:
                measured = self.by_key[job[0].key]["status"] == "measured"
                if measured and time.monotonic() <= self.end:
                    self.measure(job)
        keys = {case.key for job in self.jobs for case in job}
        return [self.by_key[case.key] for case in self.cases if case.key in keys]

    def measure(self, job: Sequence[Case], jobs_left: int = 1) -> None:
        """Measure the cases of a job in one process and store their rows.

        `jobs_left` share the remaining time: in the first pass, slow cases are timed in fewer runs,
        so that every case is measured once.
        """
        case = job[0]
        what = "parameters, GFLOPs" if case.metric in STATIC else f"{case.metric} {case.precision}"
        self.progress.update(self.task, description=f"{case.entry}: {what}")
        share = max(0.0, self.end - time.monotonic()) / jobs_left
        for case, result in self.results(job, share):
            combined = self.combine(case, result)
            row = row_of(case, combined, self.facts, self.command)
            self.store.append(row)
            self.by_key[case.key] = row
            self.progress.advance(self.task)

    def results(self, job: Sequence[Case], share: float) -> Iterator[tuple[Case, Result]]:
        """Yield the results of a job, which has a `share` of the time in seconds. No process is
        started for cases that cannot be measured."""
        runnable = []
        for case in job:
            reason = reason_to_skip(case, self.suite, self.by_key)
            if reason is None and time.monotonic() > self.end:
                reason = f"{NOT_STARTED}: the suite's {self.suite.budget:.0f} s were over"
            if reason is None:
                runnable.append(case)
            else:
                yield case, Result("missing", reason=reason)
        if runnable:
            shortened = [shorten(case, share) for case in runnable]
            results = worker.run(shortened, self.suite.timeout)
            for case, (_, result) in zip(runnable, results, strict=True):
                yield case, result

    def combine(self, case: Case, result: Result) -> Result:
        """Combine a timed result with those of earlier processes; return others unchanged."""
        if case.metric not in TIMED or result.status != "measured":
            return result
        results = self.processes.setdefault(case.key, [])
        results.append(result)
        values = combine_processes([one.values for one in results])
        if case.metric == "throughput":
            values["images_per_second"] = 1e3 * case.batch / values["median"]
        return Result("measured", values, seconds=sum(one.seconds for one in results))


def command_line() -> str:
    """Return this process's command line, quoted for a shell, with its shard under torchrun."""
    program = Path(sys.argv[0])
    module = program.suffix == ".py"  # as `python -m` and `torchrun -m` start it
    words = ["python", "-m", f"{program.parent.name}.{program.stem}"] if module else [program.name]
    words += sys.argv[1:]
    if "WORLD_SIZE" in os.environ:
        words.append(f"--shard={os.environ['RANK']}/{os.environ['WORLD_SIZE']}")
    return shlex.join(words)


def shorten(case: Case, share: float) -> Case:
    """Shorten a timed case to about a share of the time, in seconds.

    Half of it is left for loading; warm-up and timed runs may take `max_seconds` each.
    """
    if case.metric not in TIMED:
        return case
    seconds = min(case.timing.max_seconds, share / 4)
    return replace(case, timing=replace(case.timing, max_seconds=seconds))


def is_complete(row: Row, suite: Suite) -> bool:
    """Whether a measured row has as many processes as the suite requires."""
    return bool(row["values"].get("processes", suite.processes) >= suite.processes)


def closing_lines(rows: Sequence[Row], suite: Suite) -> list[str]:
    """Return remarks on the table: cases that failed or have fewer processes."""
    lines = []
    if failed := sum(row["status"] not in ("measured", "missing") for row in rows):
        lines.append(f"{counted(failed, 'case')} failed, as the lines above say")
    if late := sum(row["reason"].startswith(NOT_STARTED) for row in rows):
        lines.append(f"{counted(late, 'case')} not started: the time for this suite was over")
    if short := sum(not is_complete(row, suite) for row in rows):
        lines.append(
            f"{counted(short, 'time')} from fewer than {suite.processes} processes, so the noise "
            "may be larger than stated: run the command again with --set budget=null for all"
        )
    return lines


def reason_to_skip(case: Case, suite: Suite, rows: dict[str, Row]) -> str | None:
    """Return why a case is skipped: no weights, or a smaller batch did not fit or took too long."""
    random = case.metric not in STATIC and case.weights.source == "random"
    if random and (case.metric in ACCURACY or not suite.random_weights):
        return case.weights.note
    for batch in suite.batches if case.metric == "throughput" else ():
        smaller = rows.get(replace(case, batch=batch).key) if batch < case.batch else None
        if smaller and smaller["status"] in ("out of memory", "timed out"):
            return f"batch {batch} already was {smaller['status']}"
    return None
