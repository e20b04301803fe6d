"""Before and after: a regression is a change for the worse beyond noise and tolerance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import rows
from rows import row

from benchmarks.store import Row, Store
from reports.compare import compare
from tools.cli import main


def latency(median: float, noise: float = 0.01, **more: Any) -> Row:
    return rows.latency("A", median, noise=noise, **more)


def timed_out() -> Row:
    return {**latency(10), "status": "timed out", "values": {}, "reason": "no result within 900 s"}


def figure(metric: str, **values: Any) -> Row:
    return row("A", metric, {"split": "val2017", "backbone_gflops": 1.0, **values})


def throughput(speed: float) -> Row:
    return figure("throughput", images_per_second=speed)


@pytest.mark.parametrize(
    ("before", "after", "regressed"),
    [
        (latency(10), latency(10.4), False),
        (latency(10), latency(10.6), True),
        (latency(10), latency(5), False),
        (latency(10, noise=0.2), latency(11), False),
        (latency(10, noise=0.2), latency(13), True),
        (figure("ap", AP=0.4), figure("ap", AP=0.43), False),
        (figure("ap", AP=0.4), figure("ap", AP=0.3995), False),
        (figure("ap", AP=0.4), figure("ap", AP=0.398), True),
        (figure("params", parameters=100), figure("params", parameters=101), True),
        (figure("params", parameters=100), figure("params", parameters=100), False),
        (figure("flops", gflops=100.0), figure("flops", gflops=100.1), True),
        (throughput(9), throughput(8), True),
        (throughput(8), throughput(9), False),
        (latency(10), timed_out(), True),
        (timed_out(), latency(10), False),
        (latency(10), latency(10.6, facts={"cpu": "another"}), True),
        (latency(10, noise=0.2, processes=1), latency(11), True),
        (latency(10), latency(20, throttled=True), False),
    ],
)  # fmt: skip
def test_regressions(before: Row, after: Row, regressed: bool) -> None:
    figures = compare([before], [after], tolerance=0.05).figures
    assert list(figures["regressed"]) == [regressed]


def test_a_ratio_has_the_noise_of_both_if_it_is_known() -> None:
    figures = compare([latency(10, noise=0.03)], [latency(20, noise=0.04)]).figures
    assert figures[["ratio", "noise"]].to_numpy().tolist() == [[2, pytest.approx(0.05)]]
    assert compare([latency(10, processes=1)], [latency(10)]).figures["noise"].isna().all()


def test_the_threads_and_the_gpu_of_another_machine_may_differ() -> None:
    def on(cpu: str, threads: int, device: str) -> Row:
        return latency(10, facts={"cpu": cpu}, threads=threads, device=device)

    assert len(compare([on("a", 2, "cuda")], [on("b", 16, "cuda:1")]).figures) == 1
    assert compare([on("a", 2, "cuda")], [on("b", 2, "cpu")]).figures.empty
    assert compare([on("a", 2, "cpu")], [on("a", 16, "cpu")]).figures.empty


def test_the_exit_status_tells_of_a_regression(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, median in (("a", 10.0), ("b", 10.1), ("c", 20.0)):
        Store(tmp_path / name).append(latency(median))
    paths = {name: str(tmp_path / name) for name in "abc"}
    assert main(["bench", "compare", paths["a"], paths["b"]]) == 0
    assert main(["bench", "compare", paths["a"], paths["c"]]) == 1
    assert "regression: A latency fp32, ms: 10 to 20" in capsys.readouterr().out
    assert main(["bench", "compare", paths["a"], paths["c"], "--tolerance", "1.5"]) == 0


def test_cases_that_one_file_lacks_or_neither_measured_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = Store(tmp_path / "a"), Store(tmp_path / "b")
    for measured in (timed_out(), throughput(9)):
        a.append(measured)
    b.append(timed_out())
    assert main(["bench", "compare", str(a.path), str(b.path)]) == 1
    printed = capsys.readouterr().out
    assert f"not compared: 1 measured case that only {a.path} has" in printed
    assert "measured in neither" in printed
    assert main(["bench", "compare", str(b.path), str(a.path)]) == 0


def test_each_machine_is_compared_with_itself() -> None:
    before, after = ([latency(ms, facts={"cpu": cpu}) for cpu, ms in zip("ab", times, strict=True)]
                     for times in ((10, 50), (50, 10)))  # fmt: skip
    figures = compare(before, after).figures.set_index("machine")
    assert figures["regressed"].to_dict() == {"a, 2 cores": True, "b, 2 cores": False}
    found = compare(before, after[:1])
    assert (found.lost, found.added, found.machines) == (0, 0, ["b, 2 cores"])
    with pytest.raises(ValueError, match="several machines"):
        compare(before, [latency(10, facts={"cpu": "c"})])


def test_files_of_several_machines_are_merged_once(tmp_path: Path) -> None:
    for name, cpu in (("a", "a"), ("b", "b")):
        Store(tmp_path / name).append(latency(10, facts={"cpu": cpu}))
    files = [str(tmp_path / name) for name in ("a", "b", "a")]
    for _ in range(2):
        assert main(["bench", "merge", str(tmp_path / "all"), *files]) == 0
    assert [r["machine"] for r in Store(tmp_path / "all").rows()] == ["a, 2 cores", "b, 2 cores"]
