"""The results file: whole lines or none, whatever happens to its writers."""

from __future__ import annotations

import errno
import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from benchmarks import runner, store, worker
from benchmarks.cases import Case, Dataset, Result, TimingBudget, Weights
from benchmarks.dataset import embedded
from benchmarks.store import Store
from benchmarks.suite import Suite

FACTS: dict[str, Any] = {"cpu": "slow", "cores": 2, "code": "abc", "torch": "2"}


def row(entry: str, status: str = "measured", **facts: Any) -> store.Row:
    result = Result(status, {"parameters": 1}, "" if status == "measured" else "why")
    return store.row_of(Case(entry, "params"), result, FACTS | facts, "bench")


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    results = Store(tmp_path / "deep" / "results.jsonl")
    results.append(row("A"))
    results.append(row("B", "failed"))
    assert results.rows() == [row("A"), row("B", "failed")]


def test_a_line_cut_off_in_the_middle_is_passed_over_and_loses_nothing_else(tmp_path: Path) -> None:
    results = Store(tmp_path / "results.jsonl")
    results.append(row("A"))
    results.append(row("B"))
    whole = results.path.read_bytes()
    results.path.write_bytes(whole[:-40])
    results.append(row("C"))
    assert [r["cell"]["entry"] for r in results.rows()] == ["A", "C"]
    assert set(results.done(FACTS)) == {row("A")["key"], row("C")["key"]}


def test_a_full_disk_is_named_and_costs_no_other_row(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="no limits of file size on Windows")
    results = Store(tmp_path / "results.jsonl")
    results.append(row("A"))
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = results.path.stat().st_size + 100  # no file can be larger
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, usual[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: .*results\.jsonl"):
            results.append(row("B"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    results.append(row("C"))
    assert results.rows() == [row("A"), row("C")]


def test_a_store_that_cannot_be_written_is_named_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", "results.jsonl.lock")

    monkeypatch.setattr(FileLock, "acquire", read_only)
    monkeypatch.setattr(worker, "run", None)
    with pytest.raises(OSError, match=r"Read-only file system: .*/results\.jsonl'"):
        runner.run(Suite(["FCOS_shapes_tiny"]), Store(tmp_path / "results.jsonl"))


def test_rows_of_a_later_time_than_now_are_named_and_keep_their_order(tmp_path: Path) -> None:
    results = Store(tmp_path / "results.jsonl")
    results.append(row("A"))
    results.check()  # no warning
    before_the_clock_was_set_back = row("A") | {"time": "2100-01-01T00:00:00+00:00"}
    results.append(before_the_clock_was_set_back)
    with pytest.warns(UserWarning, match=r"results\.jsonl has a row of 2100-.* later than now"):
        results.check()
    results.append(row("A"))
    assert store.newest(results.rows()) == [before_the_clock_was_set_back]


def _write(path: str, name: str, count: int) -> None:
    for number in range(count):
        Store(path).append({**row(f"{name}{number}"), "padding": "x" * 20_000})


def test_concurrent_writers_lose_no_line(tmp_path: Path) -> None:
    path = str(tmp_path / "results.jsonl")
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(path, name, 20)) for name in "AB"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    entries = [r["cell"]["entry"] for r in Store(path).rows()]
    assert sorted(entries) == sorted(f"{name}{n}" for name in "AB" for n in range(20))
    assert all(json.loads(line) for line in Path(path).read_text().splitlines())


def test_done_are_the_measured_cases_of_this_machine_code_and_torch(tmp_path: Path) -> None:
    results = Store(tmp_path / "results.jsonl")
    for facts in ({}, {"cpu": "fast"}, {"code": "new"}, {"torch": "3"}, {"driver": "580"}):
        results.append(row("A", **facts))
    results.append(row("B", "timed out"))
    assert list(results.done(FACTS)) == [row("A")["key"]]
    for name in ("code", "torchvision", "cuda"):
        assert list(results.done(FACTS | {name: "newer"})) == []


def test_the_newest_row_of_a_case_and_machine_counts(tmp_path: Path) -> None:
    rows = [row("A", "failed"), row("B"), row("A"), row("A", cpu="fast")]
    assert store.newest(rows) == [rows[2], rows[1], rows[3]]


def test_the_newest_row_does_not_depend_on_the_order_of_rows() -> None:
    old, new = row("A"), row("A") | {"time": "2100-01-01T00:00:00+00:00"}
    assert store.newest([old, new]) == store.newest([new, old]) == [new]


def test_of_the_same_code_a_row_of_fewer_processes_hides_none_of_more() -> None:
    four, one = (row("A") | {"values": {"processes": count}} for count in (4, 1))
    assert store.newest([four, one]) == [four]
    assert store.newest([one, four]) == [four]
    other = row("A", code="new") | {"values": {"processes": 1}}
    assert store.newest([four, other]) == [other]


def test_a_later_row_without_figures_hides_a_measured_one_of_other_code_alone() -> None:
    rows = [row("A"), row("A", "missing")]
    assert store.newest(rows) == [rows[0]]
    assert store.newest([*rows, row("A", "missing", code="new")])[0]["status"] == "missing"


def test_where_files_lie_makes_no_other_case_but_their_content_does() -> None:
    def case(path: str, digest: str) -> Case:
        dataset = Dataset(path, path, "set", digest)
        return Case("A", "ap", dataset=dataset, weights=Weights("file", path, digest))

    assert case("/here", "1").key == case("/there", "1").key
    assert case("/here", "1").key != case("/here", "2").key


def test_a_missing_file_and_one_of_a_newer_version_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such results file"):
        store.read([tmp_path / "none.jsonl"])
    newer = tmp_path / "newer.jsonl"
    newer.write_text(json.dumps({**row("A"), "schema": store.SCHEMA + 1}) + "\n")
    with pytest.raises(ValueError, match="newer version"):
        store.read([newer])
    other = tmp_path / "other.jsonl"
    other.write_text('{"key": "k"}\n')
    with pytest.raises(ValueError, match="jsonl:1: not a row of results: machine is missing"):
        store.read([other])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"machine": 7}, "machine is not a str"),
        ({"cell": []}, "cell is not a dict"),
        ({"cell": {"entry": "A"}}, "cell.metric is missing"),
        ({"values": {"parameters": "many"}}, "values.parameters is not a number"),
    ],
)
def test_a_row_with_values_of_another_type_is_named_and_the_rest_used(
    change: dict[str, Any],
    problem: str,
    tmp_path: Path,
) -> None:
    results = Store(tmp_path / "results.jsonl")
    results.append(row("A"))
    results.append({**row("B"), **change})
    results.append(row("C"))
    with pytest.warns(UserWarning, match=f"results.jsonl:2: not a row of results: {problem}"):
        rows = results.rows()
    assert [r["cell"]["entry"] for r in rows] == ["A", "C"]


def test_keys_are_those_of_rows_that_were_stored_before() -> None:
    case = Case(
        *("FCOS_R_50_1x", "latency"),
        threads=2,
        dataset=embedded(),
        limit=2,
        timing=TimingBudget(2, 0, 1, 20),
    )
    assert case.key == "fe1ece37e705"
