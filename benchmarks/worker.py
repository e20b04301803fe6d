"""Cells measured in a process of their own, so that none can touch or end another.

Each is a copy of a process that has imported the libraries and done nothing else, with no tensor
made and no thread or GPU at work (multiprocessing's "forkserver"): as fresh as a new interpreter,
without the three seconds of importing torch. These packages it imports itself, from where the
parent did, whatever folders the working directory has.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.cell import Cell, MissingError, Outcome
from benchmarks.environment import fingerprint

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
START = "forkserver" if sys.platform == "linux" else "spawn"  # macOS' libraries mind being forked
LIBRARIES = ["torch", "torchvision"]
CHANGED = Outcome("failed", reason="the code was changed since the suite began: start it again")


def run(
    cells: Sequence[Cell],
    timeout: float = 600.0,
    measure: Callable[[Cell], dict[str, Any]] | None = None,
) -> Iterator[tuple[Cell, Outcome]]:
    """Measure cells one after the other in one fresh process; yield each as it is done.

    When the process ends or hangs, the cell at fault says so and a new process takes the rest.

    Args:
        cells: with the same number of threads.
        timeout: seconds for each cell, the process's start included.
        measure: the function to call in the process, `measure.measure` by default.
    """
    waiting = list(cells)
    while waiting:
        with _process(waiting, measure) as (process, connection, log):
            while waiting:
                start = time.monotonic()
                received = _receive(process, connection, timeout)
                outcome = received or _post_mortem(process, timeout, log)
                seconds = round(time.monotonic() - start, 3)
                yield waiting.pop(0), replace(outcome, seconds=seconds)
                if received is None:
                    process.kill()
                    break


@contextmanager
def _process(
    cells: Sequence[Cell], measure: Callable[[Cell], dict[str, Any]] | None
) -> Iterator[tuple[Any, Connection, Path]]:
    context: Any = multiprocessing.get_context(START)
    if START == "forkserver":
        context.set_forkserver_preload(LIBRARIES)
    ours, theirs = context.Pipe(duplex=False)
    handle, name = tempfile.mkstemp(prefix="fcos-zoo-", suffix=".log")
    os.close(handle)
    arguments = list(cells), theirs, name, measure, fingerprint()
    process = context.Process(target=_serve, args=arguments, daemon=True)
    try:
        with _without_interrupts():
            process.start()
        theirs.close()
        yield process, ours, Path(name)
        process.join(timeout=5)
    finally:
        if process.is_alive():
            process.kill()
            process.join()
        ours.close()
        Path(name).unlink(missing_ok=True)


def _receive(process: Any, connection: Connection, timeout: float) -> Outcome | None:
    """The next outcome, or None from a process that hangs or has ended."""
    try:
        if connection.poll(timeout):
            received: Outcome = connection.recv()
            return received
    except (EOFError, OSError):
        process.join(timeout=5)
    return None


def _post_mortem(process: Any, timeout: float, log: Path) -> Outcome:
    """Why there was no outcome."""
    if process.exitcode is None:
        return Outcome("timed out", reason=f"no result within {timeout:.0f} s")
    said = log.read_text(errors="replace").splitlines()
    errors = [line.strip() for line in said if "Error" in line or "Fatal" in line]
    last = f": {errors[-1][:200]}" if errors else ""
    if process.exitcode == -signal.SIGKILL:
        return Outcome("out of memory", reason=f"the process was killed by the system{last}")
    if process.exitcode < 0:
        name = signal.Signals(-process.exitcode).name
        return Outcome("crashed", reason=f"the process ended by {name}{last}")
    return Outcome("crashed", reason=f"the process ended with exit code {process.exitcode}{last}")


def _serve(
    cells: list[Cell],
    connection: Connection,
    log: str,
    measure: Callable[[Cell], dict[str, Any]] | None,
    code: str,
) -> None:
    """The life of a process: every cell, its outcome sent as soon as it is known."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    sys.stdout.flush()
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if cells[0].threads:  # for what a peer may import; of torch's threads `measure` takes care
        os.environ.update(dict.fromkeys(THREADS, str(cells[0].threads)))
    if measure is None:
        from benchmarks.measure import measure as ours

        measure = ours
    changed = fingerprint() != code  # a row says which code measured it
    for cell in cells:
        connection.send(CHANGED if changed else _guarded(measure, cell))
    connection.close()
    os._exit(0)  # an interpreter takes another second to take torch apart


def _end_with_the_parent() -> None:
    """Stop measuring when nobody is left to take the outcome: the parent was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _guarded(measure: Callable[[Cell], dict[str, Any]], cell: Cell) -> Outcome:
    try:
        return Outcome("measured", measure(cell))
    except MemoryError:
        return Outcome("out of memory", reason="not enough memory on the machine")
    except Exception as error:
        lines = str(error).splitlines() or [""]
        reason = f"{type(error).__name__}: {lines[0][:300]}"
        if any(words in str(error).lower() for words in OUT_OF_MEMORY):
            return Outcome("out of memory", reason=reason)
        missing = isinstance(error, MissingError)
        return Outcome("missing" if missing else "failed", reason=lines[0] if missing else reason)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes that start in it never see Ctrl-C, not even while Python starts; ours waits."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
