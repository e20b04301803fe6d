"""Before and after: a regression is what neither noise nor tolerance explains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import store
from benchmarks.cell import Cell, Outcome
from benchmarks.compare import compare, left_out, unmatched
from benchmarks.store import Store
from tools import bench

FACTS: dict[str, Any] = {"cpu": "a", "cores": 2, "code": "1", "torch": "2"}


def row(metric: str, values: dict[str, Any], status: str = "measured", cpu: str = "a") -> store.Row:
    outcome = Outcome(status, values, "" if status == "measured" else "it broke")
    return store.row_of(Cell("A", metric), outcome, FACTS | {"cpu": cpu}, "bench")


def latency(
    median: float, noise: float = 0.01, processes: int = 4, throttled: bool = False, **more: Any
) -> store.Row:
    state = {"during": {"gpu_throttled": throttled}}
    values = {"median": median, "noise": noise, "processes": processes, "state": state}
    return row("latency", values, **more)


def throughput(images_per_second: float) -> store.Row:
    return row("throughput", {"images_per_second": images_per_second})


@pytest.mark.parametrize(
    ("before", "after", "regressed"),
    [
        (latency(10), latency(10.4), False),
        (latency(10), latency(10.6), True),
        (latency(10), latency(5), False),
        (latency(10, noise=0.2), latency(11), False),
        (latency(10, noise=0.2), latency(13), True),
        (row("ap", {"AP": 0.4}), row("ap", {"AP": 0.37}), True),
        (row("ap", {"AP": 0.4}), row("ap", {"AP": 0.43}), False),
        (row("ap", {"AP": 0.4}), row("ap", {"AP": 0.3995}), False),
        (row("ap", {"AP": 0.4}), row("ap", {"AP": 0.398}), True),
        (row("params", {"parameters": 100}), row("params", {"parameters": 101}), True),
        (row("flops", {"gflops": 100.0}), row("flops", {"gflops": 100.1}), True),
        (throughput(9), throughput(8), True),
        (throughput(8), throughput(9), False),
        (row("params", {"parameters": 100}), row("params", {"parameters": 100}), False),
        (latency(10), latency(0, status="timed out"), True),
        (latency(0, status="timed out"), latency(10), False),
        (latency(10), latency(10.6, cpu="another"), True),
        (latency(10, noise=0.2, processes=1), latency(11), True),
        (latency(10), latency(20, throttled=True), False),
    ],
)  # fmt: skip
def test_regressions(before: store.Row, after: store.Row, regressed: bool) -> None:
    [found] = compare([before], [after], tolerance=0.05)
    assert found.regressed is regressed


def test_a_ratio_carries_the_noise_of_both() -> None:
    [found] = compare([latency(10, noise=0.03)], [latency(20, noise=0.04)])
    assert found.ratio == 2
    assert found.noise == pytest.approx(0.05)


def test_one_process_does_not_know_its_noise() -> None:
    [found] = compare([latency(10, processes=1)], [latency(10)])
    assert found.noise is None


def test_another_machine_s_threads_and_gpu_are_no_matter() -> None:
    def on(cpu: str, threads: int, device: str) -> store.Row:
        cell = Cell("A", "latency", device=device, threads=threads)
        return store.row_of(
            cell, Outcome("measured", latency(10)["values"]), FACTS | {"cpu": cpu}, ""
        )

    assert len(compare([on("a", 2, "cuda")], [on("b", 16, "cuda:1")])) == 1
    assert compare([on("a", 2, "cuda")], [on("b", 2, "cpu")]) == []
    assert compare([on("a", 2, "cpu")], [on("a", 16, "cpu")]) == []


def test_the_command_ends_with_the_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, median in (("a", 10.0), ("b", 10.1), ("c", 20.0)):
        Store(tmp_path / name).append(latency(median))
    paths = {name: str(tmp_path / name) for name in "abc"}
    assert bench.main(["compare", paths["a"], paths["b"]]) == 0
    assert bench.main(["compare", paths["a"], paths["c"]]) == 1
    assert "regression: A latency fp32, ms: 10 to 20" in capsys.readouterr().out
    assert bench.main(["compare", paths["a"], paths["c"], "--tolerance", "1.5"]) == 0


def test_cells_that_one_file_lacks_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = Store(tmp_path / "a"), Store(tmp_path / "b")
    for row in (latency(10), throughput(9)):
        a.append(row)
    b.append(latency(10))
    assert bench.main(["compare", str(a.path), str(b.path)]) == 1
    assert f"not compared: 1 measured cells that only {a.path} has" in capsys.readouterr().out
    assert bench.main(["compare", str(b.path), str(a.path)]) == 0


def test_machines_are_compared_each_with_itself() -> None:
    before, after = ([latency(ms, cpu=cpu) for cpu, ms in zip("ab", times, strict=True)]
                     for times in ((10, 50), (50, 10)))  # fmt: skip
    found = {one.machine: one.regressed for one in compare(before, after)}
    assert found == {"a, 2 cores": True, "b, 2 cores": False}
    assert unmatched(before, after[:1]) == (0, 0)
    assert left_out(before, after[:1]) == ["b, 2 cores"]
    with pytest.raises(ValueError, match="several machines"):
        compare(before, [latency(10, cpu="c")])


def test_cells_that_both_failed_to_measure_are_told_as_such(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Store(tmp_path / "a").append(latency(0, status="timed out"))
    assert bench.main(["compare", str(tmp_path / "a"), str(tmp_path / "a")]) == 0
    assert "measured in neither" in capsys.readouterr().out


def test_files_of_several_machines_are_merged_once(tmp_path: Path) -> None:
    for name, cpu in (("a", "a"), ("b", "b")):
        Store(tmp_path / name).append(latency(10, cpu=cpu))
    files = [str(tmp_path / name) for name in ("a", "b", "a")]
    for _ in range(2):
        assert bench.main(["merge", str(tmp_path / "all"), *files]) == 0
    assert [r["machine"] for r in Store(tmp_path / "all").rows()] == ["a, 2 cores", "b, 2 cores"]
