"""The cost of inference, from a decoded image to its boxes: time by stage, peak memory, energy."""

from __future__ import annotations

import gc
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from benchmarks import environment
from benchmarks.cases import MissingError, TimingBudget

FASTER = 0.02  # warm-up continues while the median of a pass improves by more than this
WINDOW = 10  # inputs per warm-up pass; only the first pass runs all of them
Stages = Mapping[str, Callable[[Any], Any]]  # by name; each takes the output of the one before


@dataclass
class Timings:
    """Seconds of every run in one process.

    `total`: (rounds, inputs); `stages`: the same for each stage. `warmup`: the number of warm-up
    runs; `stable`: whether warm-up ended because times no longer improved; `first`: seconds of the
    very first run, in which a compiled network is compiled; `gpu`: see `environment.sample_gpu`.
    """

    total: np.ndarray
    stages: dict[str, np.ndarray] = field(default_factory=dict)
    warmup: int = 0
    stable: bool = False
    first: float = 0.0
    gpu: dict[str, Any] = field(default_factory=dict)


def run_stages(stages: Stages, item: Any) -> Any:
    """Return the output of the last stage for an input of the first."""
    for stage in stages.values():
        item = stage(item)
    return item


def time_stages(
    stages: Stages,
    inputs: Sequence[Any],
    device: str,
    budget: TimingBudget,
) -> Timings:
    """Time a chain of stages on every input, in whole rounds.

    On a CPU a monotonic clock is read between stages. On a GPU the clock is read after a
    synchronisation before the first and after the last stage; between stages CUDA events are
    recorded, which do not block.

    Args:
        stages: the stages; the first one takes an input.
        inputs: the inputs; the first warm-up pass runs all of them.
        device: "cpu" or a GPU, which must be the current one.
        budget: how long to time.
    """
    if not inputs:
        raise ValueError("nothing to time: no inputs")
    run = time_on_gpu if device.startswith("cuda") else time_on_cpu
    first, warmup, stable = _warm_up(lambda item: run(stages, item)[0], inputs, budget)
    rounds: list[list[list[float]]] = []
    with environment.sample_gpu(device) as gpu:
        start = time.perf_counter()
        while True:
            rounds.append([run(stages, item) for item in inputs])
            elapsed = time.perf_counter() - start
            enough = (
                len(rounds) >= budget.min_rounds
                and len(rounds) * len(inputs) >= budget.min_runs
                and elapsed >= budget.min_seconds
            )
            if enough or elapsed >= budget.max_seconds:
                break
    seconds = np.array(rounds)  # rounds, inputs, (total, *stages)
    by_stage = {name: seconds[:, :, i] for i, name in enumerate(stages, 1)}
    return Timings(seconds[:, :, 0], by_stage, warmup, stable, first, gpu)


def _warm_up(
    run: Callable[[Any], float], inputs: Sequence[Any], budget: TimingBudget
) -> tuple[float, int, bool]:
    """Run passes until one is no longer faster than the best before it.

    This takes at most `max_seconds` after the first pass, in which a network is compiled.

    Returns the seconds of the first run, the number of runs, and whether times became stable.
    """
    first = [run(item) for item in inputs]
    start = time.perf_counter()
    count, fastest = len(first), float(np.median(first[:WINDOW]))
    while time.perf_counter() - start < budget.max_seconds:
        window = [run(item) for item in inputs[:WINDOW]]
        count += len(window)
        median = float(np.median(window))
        if median >= (1 - FASTER) * fastest:
            return first[0], count, True
        fastest = median
    return first[0], count, False


def time_on_cpu(stages: Stages, item: Any) -> list[float]:
    """Return the seconds of one run: of all stages together, and of each."""
    clock = [time.perf_counter()]
    for stage in stages.values():
        item = stage(item)
        clock.append(time.perf_counter())
    return [clock[-1] - clock[0], *np.diff(clock)]


def time_on_gpu(stages: Stages, item: Any) -> list[float]:
    """Do the same on a GPU, which is only synchronised before and after all stages."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(len(stages) + 1)]
    torch.cuda.synchronize()
    start = time.perf_counter()
    events[0].record()
    for stage, event in zip(stages.values(), events[1:], strict=True):
        item = stage(item)
        event.record()
    torch.cuda.synchronize()
    total = time.perf_counter() - start
    spans = [before.elapsed_time(after) / 1e3 for before, after in pairwise(events)]
    return [total, *spans]


def combine_processes(processes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Combine the values of a timed case from all processes that measured it.

    Args:
        processes: the values of each process, with `timings` and the `state` before, during and
            after; other values are taken from the last one.
    """
    timings: list[Timings] = [values["timings"] for values in processes]
    states = [values["state"] for values in processes]
    totals = [timing.total for timing in timings]
    combined = {
        **processes[-1],
        **summarize(totals),
        "stages": {
            name: summarize([timing.stages[name] for timing in timings])
            for name in timings[0].stages
        },
        "processes": len(timings),
        "process_medians": [summarize([total])["median"] for total in totals],
        "rounds": sum(map(len, totals)),
        "warmup": sum(timing.warmup for timing in timings),
        "first_ms": 1e3 * timings[0].first,
        "stable": all(timing.stable for timing in timings),
        "state": {
            "before": states[0]["before"],
            "during": min((state["during"] for state in states), key=_gpu_speed),
            "after": states[-1]["after"],
        },
        "samples_ms": [(1e3 * total).round(4).tolist() for total in totals],
    }
    del combined["timings"]
    return combined


def _gpu_speed(sampled: Mapping[str, Any]) -> tuple[bool, float]:
    """Return a key that sorts results of `sample_gpu`: throttled ones first, then by clock."""
    return not sampled.get("gpu_throttled"), sampled.get("gpu_lowest_mhz", math.inf)


def summarize(processes: Sequence[np.ndarray]) -> dict[str, Any]:
    """Compute statistics in milliseconds over the (rounds, inputs) runs of every process.

    No run is left out as an outlier.

    `median` is the median over inputs of each input's median, so that for two images of different
    sizes it is not the slowest run of one and the fastest of the other.

    `noise` is the larger of two figures, both computed on times relative to the median of their
    input, so that images of different sizes do not count as noise: the interquartile range of all
    runs, and the range of the processes' medians, since one process may be slower than the next
    from its first run to its last. None for fewer than three rounds.

    `p99` is None for fewer than 1,000 runs.
    """
    ms = 1e3 * np.concatenate(processes)
    typical = np.median(ms, axis=0)
    noise = None
    if len(ms) >= 3:
        runs = np.quantile(ms / typical, [0.25, 0.75])
        medians = [np.median(1e3 * process / typical) for process in processes]
        noise = float(max(np.ptp(runs), np.ptp(medians)))
    return {
        "median": float(np.median(typical)),
        "p90": float(np.quantile(ms, 0.9)),
        "p99": float(np.quantile(ms, 0.99)) if ms.size >= 1000 else None,
        "mean": float(ms.mean()),
        "n": int(ms.size),
        "noise": noise,
    }


def peak_memory(stages: Stages, inputs: Sequence[Any], device: str) -> dict[str, Any]:
    """Return the peak memory over all inputs, in MB of 2^20 bytes: of the allocator on a GPU, of
    the process's resident memory on a CPU."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # cached memory of loading would count as reserved
        torch.cuda.reset_peak_memory_stats()
    was_reset = reset_peak_rss()
    loaded = psutil.Process().memory_info().rss / 2**20
    for item in inputs:
        run_stages(stages, item)
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        return {
            "kind": "max_memory_allocated",
            "peak_mb": torch.cuda.max_memory_allocated() / 2**20,
            "reserved_mb": torch.cuda.max_memory_reserved() / 2**20,
        }
    kind = "peak RSS of the process" if was_reset else "peak RSS of the process, loading included"
    return {"kind": kind, "peak_mb": peak_rss_mb(), "loaded_mb": loaded}


def joules_per_image(
    stages: Stages,
    batches: Sequence[Sequence[Any]],
    device: str,
    min_seconds: float,
) -> dict[str, Any]:
    """Return joules per image, read by Zeus from hardware counters.

    Whole rounds over the batches are measured, after a warm-up round, for at least `min_seconds`,
    since NVML updates its counter only every 20 to 100 ms. Other work of the GPU or the processor
    in that time, and idling, is included.

    Returns:
        `joules` of the GPU or else of the processor, `gpu_joules`, `cpu_joules` and `dram_joules`
        if they can be read, `seconds` and `runs`.

    Raises:
        MissingError: Zeus is not installed, or the device has no counter that can be read.
    """
    try:
        from zeus.monitor import ZeusMonitor
    except ImportError:
        raise MissingError("zeus is not installed: pip install 'fcos-zoo[energy]'") from None

    def run() -> int:
        for batch in batches:
            run_stages(stages, batch)
        return sum(map(len, batches))

    on_gpu = device.startswith("cuda")
    monitor = ZeusMonitor(gpu_indices=[torch.device(device).index or 0] if on_gpu else [])
    run()
    monitor.begin_window("detect")
    runs, start = 0, time.monotonic()
    while runs == 0 or time.monotonic() - start < min_seconds:
        runs += run()
    measured = monitor.end_window("detect")
    values = {}
    for part in ("gpu", "cpu", "dram"):
        if energy := getattr(measured, f"{part}_energy"):
            values[f"{part}_joules"] = sum(energy.values()) / runs
    own = values.get("gpu_joules" if on_gpu else "cpu_joules")
    if not own:
        counter = "NVML" if on_gpu else "RAPL, which only root can"
        raise MissingError(f"no energy counter of {device} can be read ({counter})")
    return {"joules": own, **values, "seconds": measured.time, "runs": runs}


def reset_peak_rss() -> bool:
    """Reset the peak resident memory of this process; returns False if the system cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_rss_mb() -> float:
    """Return the peak of this process's resident memory, in MB of 2^20 bytes.

    On Linux it is read from /proc, as `getrusage` includes the parent's memory before exec.
    """
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import resource  # not available on Windows

    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
