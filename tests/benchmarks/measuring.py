"""What processes do in the tests of the worker and of the store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.cases import Case, MissingError
from benchmarks.store import Row, Store


def measure(case: Case) -> dict[str, Any]:
    """Measure, or go wrong in the way that the entry's name says."""
    if case.entry == "exits":
        os._exit(3)
    if case.entry == "segfaults":
        print("Fatal Python error: Segmentation fault", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    if case.entry == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if case.entry == "interrupted":
        signal.raise_signal(signal.SIGINT)  # what Ctrl-C sends to all processes of a terminal
    if case.entry == "environment":
        return {"folders": os.environ.get("FCOS_ZOO_CONFIGS")}
    if case.entry == "fresh":
        torch = sys.modules["torch"]  # imported by the process that this one is a copy of
        threads = len(os.listdir(f"/proc/{os.getppid()}/task"))
        return {"threads of the original": threads, "GPU in use": torch.cuda.is_initialized()}
    if case.entry.startswith("leaves a child "):
        child = subprocess.Popen(["sleep", "600"])
        Path(case.entry.split()[-1]).write_text(str(child.pid))
    if case.entry.startswith("hangs "):
        Path(case.entry.split()[1]).write_text(str(os.getpid()))
    if case.entry.startswith("hangs"):
        time.sleep(600)
    if case.entry == "no memory":
        raise MemoryError
    if case.entry == "no GPU memory":
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
    if case.entry == "wrong":
        raise ValueError("nonsense\nand more of it")
    if case.entry == "missing":
        raise MissingError("no weights")
    return {"entry": case.entry, "threads": os.environ.get("OMP_NUM_THREADS")}


def append(path: Path, rows: list[Row]) -> None:
    """Append rows to a results file."""
    for row in rows:
        Store(path).append(row)
