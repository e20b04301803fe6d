"""What is timed and how it is summed up, on a clock that only the tested work moves."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks import latency
from benchmarks.cell import Pace


class Clock:
    """A clock that stands still but for `work`."""

    def __init__(self) -> None:
        self.now = 0.0
        self.seen: list[float] = []

    def work(self, seconds: float) -> float:
        self.now += seconds
        return seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    fake = Clock()
    monkeypatch.setattr(latency.time, "perf_counter", lambda: fake.now)
    return fake


def test_stages_are_timed_apart_and_together(clock: Clock) -> None:
    stages = {"first": clock.work, "second": lambda x: clock.work(2 * x)}
    timing = latency.measure(stages, [1.0, 3.0], "cpu", Pace(rounds=2, runs=0, seconds=0))
    assert timing.total.tolist() == [[3.0, 9.0]] * 2
    assert timing.stages["first"].tolist() == [[1.0, 3.0]] * 2
    assert timing.stages["second"].tolist() == [[2.0, 6.0]] * 2


class Event:
    """What a CUDA event knows, on the tests' clock."""

    clock: Clock

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = self.clock.now

    def elapsed_time(self, later: Event) -> float:
        return 1e3 * (later.at - self.at)


def test_on_a_gpu_events_lie_between_the_stages_and_the_host_waits_at_both_ends(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = []
    monkeypatch.setattr(Event, "clock", clock, raising=False)
    monkeypatch.setattr(latency.torch.cuda, "Event", Event)
    monkeypatch.setattr(latency.torch.cuda, "synchronize", lambda: waits.append(clock.work(0.5)))
    stages = {"first": clock.work, "second": lambda x: clock.work(2 * x)}
    timing = latency.measure(stages, [1.0], "cuda", Pace(rounds=3, runs=0, seconds=0))
    assert timing.stages["first"].tolist() == [[1.0]] * 3
    assert timing.stages["second"].tolist() == [[2.0]] * 3
    assert timing.total.tolist() == [[3.5]] * 3
    assert len(waits) == 2 * (3 + timing.warmup)


def test_warm_up_sees_every_input_and_goes_on_until_two_passes_agree(clock: Clock) -> None:
    runs = iter([9.0, 9.0, 5.0, 5.0, 1.0, 1.0, *[1.0] * 100])
    timing = latency.measure(
        {"all": lambda _: clock.work(next(runs))}, ["a", "b"], "cpu", Pace(3, 0, 0.0)
    )
    assert timing.warmup == 8
    assert timing.stable
    assert timing.total.tolist() == [[1.0, 1.0]] * 3


def test_warm_up_that_never_settles_ends_and_says_so(clock: Clock) -> None:
    growing = iter(1.1**n for n in range(1000))
    timing = latency.measure(
        {"all": lambda _: clock.work(next(growing))}, ["a"], "cpu", Pace(3, 0, 0.0, limit=50.0)
    )
    assert not timing.stable


@pytest.mark.parametrize(
    ("pace", "rounds"),
    [
        (Pace(rounds=3, runs=0, seconds=0), 3),
        (Pace(rounds=1, runs=9, seconds=0), 5),
        (Pace(rounds=1, runs=0, seconds=7), 4),
        (Pace(rounds=100, runs=0, seconds=0, limit=5), 3),
    ],
)
def test_rounds_are_whole_and_as_many_as_the_pace_wants(
    clock: Clock, pace: Pace, rounds: int
) -> None:
    timing = latency.measure({"all": lambda _: clock.work(1.0)}, ["a", "b"], "cpu", pace)
    assert timing.total.shape == (rounds, 2)


def test_images_of_different_size_are_no_noise_but_the_same_one_twice_is() -> None:
    steady = np.array([[1.0, 5.0]] * 4)
    assert latency.summarize(steady)["noise"] == 0
    shaking = steady * np.array([[1.0], [1.2], [0.8], [1.0]])
    assert latency.summarize(shaking)["noise"] == pytest.approx(0.1)
    assert latency.summarize(steady[:2])["noise"] is None


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("jitter", [0.01, 0.1, 0.3])
def test_two_measurements_on_an_unsteady_machine_agree_within_their_noise(
    clock: Clock, jitter: float, seed: int
) -> None:
    machine = np.random.default_rng(seed)
    stages = {"all": lambda seconds: clock.work(seconds * machine.lognormal(sigma=jitter))}
    first, again = (
        latency.summarize(latency.measure(stages, [1.0, 3.0, 2.0], "cpu", Pace(9, 0, 0)).total)
        for _ in range(2)
    )
    assert abs(again["median"] / first["median"] - 1) <= np.hypot(first["noise"], again["noise"])


def test_no_run_is_left_out_and_p99_needs_a_thousand() -> None:
    seconds = np.full((10, 10), 0.001)
    seconds[0, 0] = 1.0
    summary = latency.summarize(seconds)
    assert summary["median"] == pytest.approx(1.0)
    assert summary["mean"] == pytest.approx(10.99)
    assert summary["n"] == 100
    assert summary["p99"] is None
    assert latency.summarize(np.full((100, 10), 0.002))["p99"] == pytest.approx(2.0)
