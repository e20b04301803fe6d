"""How long a detector takes, stage by stage, from a decoded picture to its boxes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from benchmarks import environment
from benchmarks.cell import Pace

FASTER = 0.02  # a warm-up pass whose median gains more than it is not the last
WINDOW = 10  # inputs of a warm-up pass after the first, which sees all
NOISY = 0.10  # a relative interquartile range over it marks a row


@dataclass
class Timing:
    """Seconds of every run: `total` (rounds, inputs) and the same for each of `stages`.

    `warmup` runs came before, `stable` says whether they ended in agreement; `first` is the very
    first one, in which a compiled network is compiled; `gpu` is what `environment.watch` saw.
    """

    total: np.ndarray
    stages: dict[str, np.ndarray] = field(default_factory=dict)
    warmup: int = 0
    stable: bool = False
    first: float = 0.0
    gpu: dict[str, Any] = field(default_factory=dict)


def measure(
    stages: Mapping[str, Callable[[Any], Any]],
    inputs: Sequence[Any],
    device: str,
    pace: Pace,
) -> Timing:
    """Time a chain of stages on every input, in whole rounds.

    On a CPU a monotonic clock is read between stages. On a GPU the clock is read after a
    synchronisation at both ends, and CUDA events, which wait for nothing, lie between the stages.

    Args:
        stages: by name; each takes what the one before returns, the first an input.
        inputs: what to run on; all are seen before anything is timed.
        device: "cpu" or a GPU, which is the current one.
        pace: how much of it.
    """
    if not inputs:
        raise ValueError("nothing to time: no inputs")
    once = _timed_on_gpu if device.startswith("cuda") else _timed_on_cpu
    first, warmup, stable = _warm_up(lambda item: once(stages, item)[0], inputs, pace)
    rounds: list[list[list[float]]] = []
    with environment.watch(device) as gpu:
        start = time.perf_counter()
        while True:
            rounds.append([once(stages, item) for item in inputs])
            elapsed = time.perf_counter() - start
            runs = len(rounds) * len(inputs)
            enough = len(rounds) >= pace.rounds and runs >= pace.runs and elapsed >= pace.seconds
            if enough or elapsed >= pace.limit:
                break
    times = np.array(rounds)  # rounds, inputs, total and stages
    by_stage = {name: times[:, :, i] for i, name in enumerate(stages, 1)}
    return Timing(times[:, :, 0], by_stage, warmup, stable, first, gpu)


def _warm_up(
    run: Callable[[Any], float], inputs: Sequence[Any], pace: Pace
) -> tuple[float, int, bool]:
    """Run until a pass is no faster than the fastest before, or after the first one, in which a
    network is compiled, as long as the timed part may take.

    Returns the first run's time, the number of runs, and whether they became stable.
    """
    first = [run(item) for item in inputs]
    start = time.perf_counter()
    count, fastest = len(first), float(np.median(first[:WINDOW]))
    while time.perf_counter() - start < pace.limit:
        window = [run(item) for item in inputs[:WINDOW]]
        count += len(window)
        median = float(np.median(window))
        if median >= (1 - FASTER) * fastest:
            return first[0], count, True
        fastest = median
    return first[0], count, False


def _timed_on_cpu(stages: Mapping[str, Callable[[Any], Any]], item: Any) -> list[float]:
    clock = [time.perf_counter()]
    for stage in stages.values():
        item = stage(item)
        clock.append(time.perf_counter())
    return [clock[-1] - clock[0], *np.diff(clock)]


def _timed_on_gpu(stages: Mapping[str, Callable[[Any], Any]], item: Any) -> list[float]:
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


def join(processes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The values of a timed cell out of what each process that measured it gave.

    Args:
        processes: each with its `timing` and its `state` before, during and after; whatever else
            the last one says is kept as it is.
    """
    timings: list[Timing] = [values["timing"] for values in processes]
    states = [values["state"] for values in processes]
    totals = [timing.total for timing in timings]
    joined = {
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
            "during": min((state["during"] for state in states), key=_speed),
            "after": states[-1]["after"],
        },
        "samples_ms": [(1e3 * total).round(4).tolist() for total in totals],
    }
    del joined["timing"]
    return joined


def _speed(gpu: Mapping[str, Any]) -> tuple[bool, float]:
    """For the slowest of several `environment.watch`: throttled ones first, then by their clock."""
    return not gpu.get("gpu_throttled"), gpu.get("gpu_lowest_mhz", math.inf)


def summarize(processes: Sequence[np.ndarray]) -> dict[str, Any]:
    """Milliseconds of the (rounds, inputs) runs of every process: none is left out as an outlier.

    `median` is that over the inputs of each one's median, so that of two images of different size
    it is not the slowest run of one and the fastest of the other.

    `noise` is the larger of two figures, in which every run is relative to the median of its own
    input, so that images of different size don't count as noise: the interquartile range of all
    runs, and the range of the processes' medians, since one process may be slower than the next
    from its first run to its last. None for fewer than three rounds.

    `p99` needs a thousand runs.
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
