"""Energy that detecting in an image takes, read from the counters of GPU and processor by Zeus."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from benchmarks.cases import MissingError


def joules_per_image(
    stages: Mapping[str, Callable[[Any], Any]],
    batches: Sequence[Sequence[Any]],
    device: str,
    min_seconds: float,
) -> dict[str, Any]:
    """Joules of an image, of everything from a decoded image to its boxes.

    Whole rounds over the batches are measured, after one that is not, for at least `min_seconds`,
    since NVML updates its counter only every 20 to 100 ms. What else the GPU or the processor does
    meanwhile, also idling, counts too.

    Returns:
        `joules`: of the GPU on a GPU, else of the processor. `gpu_joules`, `cpu_joules` and
        `dram_joules`, where they can be read, `seconds` and `runs`.

    Raises:
        MissingError: Zeus is not installed, or the device has no counter that can be read.
    """
    gpu = (torch.device(device).index or 0) if device.startswith("cuda") else None
    monitor = _monitor([] if gpu is None else [gpu])
    _run(stages, batches)
    monitor.begin_window("detect")
    runs, start = 0, time.monotonic()
    while runs == 0 or time.monotonic() - start < min_seconds:
        _run(stages, batches)
        runs += sum(map(len, batches))
    measured = monitor.end_window("detect")
    parts = {
        "gpu_joules": measured.gpu_energy,
        "cpu_joules": measured.cpu_energy,
        "dram_joules": measured.dram_energy,
    }
    values = {name: sum(part.values()) / runs for name, part in parts.items() if part}
    own = values.get("cpu_joules" if gpu is None else "gpu_joules")
    if not own:
        counter = "RAPL, which only root can" if gpu is None else "NVML"
        raise MissingError(f"no energy counter of {device} can be read ({counter})")
    return {"joules": own, **values, "seconds": measured.time, "runs": runs}


def _run(stages: Mapping[str, Callable[[Any], Any]], batches: Sequence[Any]) -> None:
    for item in batches:
        for stage in stages.values():
            item = stage(item)


def _monitor(gpus: list[int]) -> Any:
    try:
        from zeus.monitor import ZeusMonitor
    except ImportError:
        raise MissingError("zeus is not installed: pip install 'fcos-zoo[energy]'") from None
    return ZeusMonitor(gpu_indices=gpus)
