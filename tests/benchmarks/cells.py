"""What measuring processes do in the tests of the worker."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.cell import Cell, MissingError


def measure(cell: Cell) -> dict[str, Any]:
    """Measure, or go wrong in the way that the entry's name says."""
    if cell.entry == "exits":
        os._exit(3)
    if cell.entry == "segfaults":
        print("Fatal Python error: Segmentation fault", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    if cell.entry == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if cell.entry == "interrupted":
        signal.raise_signal(signal.SIGINT)  # what Ctrl-C sends to all processes of a terminal
    if cell.entry == "fresh":
        torch = sys.modules["torch"]  # imported by the process that this one is a copy of
        threads = len(os.listdir(f"/proc/{os.getppid()}/task"))
        return {"threads of the original": threads, "GPU in use": torch.cuda.is_initialized()}
    if cell.entry.startswith("hangs "):
        Path(cell.entry.split()[1]).write_text(str(os.getpid()))
    if cell.entry.startswith("hangs"):
        time.sleep(600)
    if cell.entry == "no memory":
        raise MemoryError
    if cell.entry == "no GPU memory":
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
    if cell.entry == "wrong":
        raise ValueError("nonsense\nand more of it")
    if cell.entry == "missing":
        raise MissingError("no weights")
    return {"entry": cell.entry, "threads": os.environ.get("OMP_NUM_THREADS")}
