"""Measure cases in separate processes, so that none can disturb or end another.

On Linux each process is forked from a server process that has only imported the libraries: it has
created no tensor and started no thread or GPU context (multiprocessing's "forkserver"). It is as
clean as a new interpreter, without the three seconds of importing torch.
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
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.cases import Case, MissingError, Result
from benchmarks.environment import fingerprint, visible_gpus
from zoo.registry import folders

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
START = "forkserver" if sys.platform == "linux" else "spawn"  # forking is not safe on macOS
LIBRARIES = ["torch", "torchvision", "hydra.utils"]
CHANGED = Result("failed", reason="the code changed since the suite began: start it again")


def run(
    cases: Sequence[Case],
    timeout: float = 600.0,
    measure: Callable[[Case], dict[str, Any]] | None = None,
) -> Iterator[tuple[Case, Result]]:
    """Measure cases one after the other in one fresh process; yield each result at once.

    If the process ends or hangs, the result of its current case says so, and the remaining cases
    are measured in a new process.

    Args:
        cases: cases with the same number of threads.
        timeout: seconds for each case, including the start of the process.
        measure: the function called in the process; `benchmarks.measure.measure` by default.
    """
    remaining = list(cases)
    while remaining:
        with _process(remaining, measure) as (process, connection, log):
            while remaining:
                start = time.monotonic()
                received = _receive(process, connection, timeout)
                result = received or _post_mortem(process, timeout, log)
                seconds = round(time.monotonic() - start, 3)
                yield remaining.pop(0), replace(result, seconds=seconds)
                if received is None:
                    process.kill()
                    break


def take_gpu() -> None:
    """Give each process that torchrun starts one of the visible GPUs.

    Raises:
        ValueError: there are GPUs, but fewer than processes.
    """
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # NVML's numbering
    if "LOCAL_RANK" in os.environ and (gpus := visible_gpus()):
        local = int(os.environ["LOCAL_RANK"])
        if local >= len(gpus):
            raise ValueError(
                f"no GPU for process {local} of this machine, which has {','.join(gpus)}: "
                f"use --nproc-per-node {len(gpus)}"
            )
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[local]


@contextmanager
def _process(
    cases: Sequence[Case], measure: Callable[[Case], dict[str, Any]] | None
) -> Iterator[tuple[Any, Connection, Path]]:
    context: Any = multiprocessing.get_context(START)
    if START == "forkserver":
        context.set_forkserver_preload(LIBRARIES)
    receiver, sender = context.Pipe(duplex=False)
    handle, name = tempfile.mkstemp(prefix="fcos-zoo-", suffix=".log")
    os.close(handle)
    # Includes folders that `zoo.register` has added in this process.
    environment = {**os.environ, "FCOS_ZOO_CONFIGS": os.pathsep.join(map(str, folders()))}
    arguments = list(cases), sender, name, measure, fingerprint(), environment
    process = context.Process(target=_serve, args=arguments, daemon=True)
    try:
        with _without_interrupts():
            process.start()
        sender.close()
        yield process, receiver, Path(name)
    finally:
        _end(process)
        receiver.close()
        Path(name).unlink(missing_ok=True)


def _end(process: Any) -> None:
    """End a process and all that it has started, after some seconds to exit by itself."""
    if process.pid is None:
        return
    process.join(timeout=5)
    process.kill()
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError):  # the group exists while it has members
            os.killpg(process.pid, signal.SIGKILL)
    process.join()


def _receive(process: Any, connection: Connection, timeout: float) -> Result | None:
    """Return the next result, or None if the process hangs or has ended."""
    try:
        if connection.poll(timeout):
            received: Result = connection.recv()
            return received
    except (EOFError, OSError):
        process.join(timeout=5)
    return None


def _post_mortem(process: Any, timeout: float, log: Path) -> Result:
    """Return the result of a case whose process sent none."""
    if process.exitcode is None:
        return Result("timed out", reason=f"no result within {timeout:.0f} s")
    lines = log.read_text(errors="replace").splitlines()
    errors = [line.strip() for line in lines if "Error" in line or "Fatal" in line]
    last = f": {errors[-1][:200]}" if errors else ""
    if process.exitcode == -signal.SIGKILL:
        return Result("out of memory", reason=f"the process was killed by the system{last}")
    if process.exitcode < 0:
        name = signal.Signals(-process.exitcode).name
        return Result("crashed", reason=f"the process ended by {name}{last}")
    return Result("crashed", reason=f"the process ended with exit code {process.exitcode}{last}")


def _serve(
    cases: list[Case],
    connection: Connection,
    log: str,
    measure: Callable[[Case], dict[str, Any]] | None,
    code: str,
    environment: dict[str, str],
) -> None:
    """Run as the main function of a process: measure every case and send each result at once."""
    os.environ.update(environment)  # the fork server keeps its initial environment
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # so that processes of the detector end with this one
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    sys.stdout.flush()
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if cases[0].threads:  # for libraries that a baseline imports; `measure` sets torch's threads
        os.environ.update(dict.fromkeys(THREADS, str(cases[0].threads)))
    if measure is None:
        from benchmarks.measure import measure as measure_case

        measure = measure_case
    changed = fingerprint() != code  # rows state the code that measured them
    for case in cases:
        connection.send(CHANGED if changed else _guarded(measure, case))
    connection.close()
    os._exit(0)  # saves the second that unloading torch takes


def _end_with_the_parent() -> None:
    """End this process and all that it started when the parent has been killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    if hasattr(os, "killpg"):
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def _guarded(measure: Callable[[Case], dict[str, Any]], case: Case) -> Result:
    try:
        return Result("measured", measure(case))
    except MemoryError:
        return Result("out of memory", reason="not enough memory on the machine")
    except Exception as error:
        lines = str(error).splitlines() or [""]
        reason = f"{type(error).__name__}: {lines[0][:300]}"
        if any(words in str(error).lower() for words in OUT_OF_MEMORY):
            return Result("out of memory", reason=reason)
        missing = isinstance(error, MissingError)
        return Result("missing" if missing else "failed", reason=lines[0] if missing else reason)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Block Ctrl-C for processes that are started in this block, even while Python starts. This
    process receives it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
