"""Time, on a clock that only the tested work moves, memory and energy of detecting."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from benchmarks import inference
from benchmarks.cases import Case, MissingError, TimingBudget
from benchmarks.dataset import embedded
from benchmarks.inference import Timings, joules_per_image, summarize, time_stages
from benchmarks.measure import measure


class Clock:
    """A clock that stands still except during `work`."""

    now = 0.0

    def work(self, seconds: float) -> float:
        self.now += seconds
        return seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(inference.time, "perf_counter", lambda: fake.now)
    return fake


def timed(clock: Clock, durations: Iterable[float], inputs: int, **budget: Any) -> Timings:
    """Time a single stage whose runs take these durations one after the other."""
    remaining = iter(durations)
    stages = {"all": lambda _: clock.work(next(remaining))}
    return time_stages(stages, range(inputs), "cpu", budget_of(**budget))


def budget_of(**settings: float) -> TimingBudget:
    return TimingBudget(**{"min_rounds": 3, "min_runs": 0, "min_seconds": 0, **settings})


def test_stages_are_timed_separately_and_together(clock: Clock) -> None:
    stages = {"first": clock.work, "second": lambda x: clock.work(2 * x)}
    times = time_stages(stages, [1.0, 3.0], "cpu", budget_of(min_rounds=2))
    assert times.total.tolist() == [[3.0, 9.0]] * 2
    assert times.stages["first"].tolist() == [[1.0, 3.0]] * 2
    assert times.stages["second"].tolist() == [[2.0, 6.0]] * 2


def test_on_a_gpu_events_lie_between_the_stages_and_the_host_waits_at_both_ends(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = clock.now

        def elapsed_time(self, later: Event) -> float:
            return 1e3 * (later.at - self.at)

    waits = []
    monkeypatch.setattr(inference.torch.cuda, "Event", Event)
    monkeypatch.setattr(inference.torch.cuda, "synchronize", lambda: waits.append(clock.work(0.5)))
    stages = {"first": clock.work, "second": lambda x: clock.work(2 * x)}
    times = time_stages(stages, [1.0], "cuda", budget_of())
    assert times.stages["first"].tolist() == [[1.0]] * 3
    assert times.stages["second"].tolist() == [[2.0]] * 3
    assert times.total.tolist() == [[3.5]] * 3
    assert len(waits) == 2 * (3 + times.warmup)


@pytest.mark.parametrize(
    ("durations", "inputs", "warmup", "stable"),
    [
        ([9.0, 9.0, 5.0, 5.0, *[1.0] * 100], 2, 8, True),  # until it gets no faster
        ([10 * 0.9**n for n in range(1000)], 1, 9, False),  # never, within 50 seconds
        ([90.0, *[1.0] * 20], 1, 3, True),  # the first pass compiles, which is not counted
    ],
)
def test_warm_up_goes_on_until_times_are_stable(
    clock: Clock, durations: list[float], inputs: int, warmup: int, stable: bool
) -> None:
    times = timed(clock, durations, inputs, max_seconds=50.0)
    assert (times.warmup, times.stable, times.first) == (warmup, stable, durations[0])
    assert len(times.total) == 3 or not stable


@pytest.mark.parametrize(
    ("budget", "rounds"),
    [
        ({"min_rounds": 3}, 3),
        ({"min_rounds": 1, "min_runs": 9}, 5),
        ({"min_rounds": 1, "min_seconds": 7}, 4),
        ({"min_rounds": 100, "max_seconds": 5}, 3),
    ],
)
def test_rounds_are_whole_and_as_many_as_the_budget_asks_for(
    clock: Clock, budget: dict[str, float], rounds: int
) -> None:
    assert timed(clock, [1.0] * 1000, 2, **budget).total.shape == (rounds, 2)


def test_noise_is_that_of_each_image_or_of_a_slow_process() -> None:
    steady = np.array([[1.0, 5.0]] * 4)
    assert summarize([steady])["noise"] == 0
    shaking = steady * np.array([[1.0], [1.2], [0.8], [1.0]])
    assert summarize([shaking])["noise"] == pytest.approx(0.1)
    assert summarize([steady[:2]])["noise"] is None
    several = summarize([steady, steady, steady, 1.3 * steady[:2]])
    assert several["median"] == 1e3 * 3.0
    assert several["noise"] == pytest.approx(0.3)


def test_no_run_is_removed_and_p99_needs_a_thousand() -> None:
    seconds = np.full((10, 10), 0.001)
    seconds[0, 0] = 1.0
    summary = summarize([seconds])
    assert summary["median"] == pytest.approx(1.0)
    assert summary["mean"] == pytest.approx(10.99)
    assert (summary["n"], summary["p99"]) == (100, None)
    assert summarize([np.full((50, 10), 0.002)] * 2)["p99"] == pytest.approx(2.0)


def process(total: float, **state: Any) -> dict[str, Any]:
    """What a process that ran twice on one image gives."""
    runs = np.array([[total], [total]])
    times = Timings(runs, {"all": runs}, warmup=3, stable=True, first=total)
    states = {"before": {"load": 1}, "during": state, "after": {"load": total}}
    return {"timings": times, "state": states, "weights": "random"}


def test_the_processes_of_a_time_are_joined_in_one_row() -> None:
    slowed = {"gpu_throttled": True, "gpu_lowest_mhz": 900}
    joined = inference.combine_processes([process(2.0, gpu_lowest_mhz=800), process(3.0, **slowed)])
    json.dumps(joined, allow_nan=False)
    assert joined["process_medians"] == [2000, 3000]
    assert joined["samples_ms"] == [[[2000], [2000]], [[3000], [3000]]]
    assert joined["median"] == joined["stages"]["all"]["median"] == 2500
    assert (joined["processes"], joined["rounds"], joined["warmup"]) == (2, 4, 6)
    assert (joined["first_ms"], joined["weights"]) == (2000, "random")
    assert joined["state"] == {"before": {"load": 1}, "during": slowed, "after": {"load": 3.0}}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets a peak")
def test_memory_of_loading_is_not_counted_as_memory_of_detecting() -> None:
    assert (
        inference.peak_rss_mb() <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10 * 1.1
    )
    before = psutil.Process().memory_info().rss / 2**20
    loading = torch.ones(80 << 20)  # 320 MB, touched
    del loading
    stages = {"network": lambda megabytes: torch.ones(megabytes << 18).sum()}
    small, large = (inference.peak_memory(stages, [size], "cpu") for size in (1, 200))
    assert small["kind"] == "peak RSS of the process"
    assert small["loaded_mb"] <= small["peak_mb"] < before + 100
    assert 150 < large["peak_mb"] - large["loaded_mb"] < 300


def test_on_a_gpu_the_allocator_s_peak_counts_from_a_fresh_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[object] = []
    for name in ("synchronize", "empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda name=name: seen.append(name))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * 2**20)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 4 * 2**20)
    values = inference.peak_memory({"all": seen.append}, ["a", "b"], "cuda")
    before = ["synchronize", "empty_cache", "reset_peak_memory_stats"]
    assert seen == [*before, "a", "b", "synchronize"]
    assert (values["peak_mb"], values["reserved_mb"]) == (3, 4)
    assert values["kind"] == "max_memory_allocated"


class Monitor:
    """Stands for Zeus: its counters rise by the same in every window."""

    cpu = (5.0, 1.0)  # by processor

    def __init__(self, gpu_indices: list[int]) -> None:
        self.gpus = gpu_indices

    def begin_window(self, key: str) -> None:
        self.key = key

    def end_window(self, key: str) -> Any:
        assert key == self.key
        gpu, cpu = dict.fromkeys(self.gpus, 30.0), dict(enumerate(self.cpu)) or None
        return SimpleNamespace(time=2.0, gpu_energy=gpu, cpu_energy=cpu, dram_energy=None)


@pytest.fixture
def zeus(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("zeus.monitor")
    module.ZeusMonitor = Monitor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "zeus", ModuleType("zeus"))
    monkeypatch.setitem(sys.modules, "zeus.monitor", module)


@pytest.mark.usefixtures("zeus")
def test_joules_of_the_device_are_divided_by_the_images_of_the_window(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []
    stages = {"detect": lambda batch: seen.append(batch)}
    values = joules_per_image(stages, [[1, 2], [3]], "cpu", min_seconds=0)
    assert seen == [[1, 2], [3]] * 2  # one round before the window
    assert values == {"joules": 2.0, "cpu_joules": 2.0, "seconds": 2.0, "runs": 3}
    values = joules_per_image(stages, [[1, 2], [3]], "cuda:1", min_seconds=0)
    assert values["joules"] == values["gpu_joules"] == 10
    monkeypatch.setattr(Monitor, "cpu", ())
    with pytest.raises(MissingError, match="no energy counter of cpu can be read"):
        joules_per_image(stages, [[1]], "cpu", min_seconds=0)


@pytest.mark.usefixtures("zeus")
def test_energy_is_a_metric_like_any_other() -> None:
    case = Case("FCOS_shapes_tiny", "energy", dataset=embedded(), limit=1, threads=1,
                size=(96, 128))  # fmt: skip
    assert measure(case)["joules"] > 0


def test_without_zeus_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zeus", None)
    with pytest.raises(MissingError, match=r"pip install 'fcos-zoo\[energy\]'"):
        joules_per_image({}, [], "cpu", 0)
