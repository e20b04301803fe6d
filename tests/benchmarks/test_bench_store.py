"""The results file: whole lines or none, whatever happens to its writers."""

from __future__ import annotations

import errno
import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from measuring import append

from benchmarks import runner, store, worker
from benchmarks.cases import Case, Dataset, Result, TimingBudget, Weights
from benchmarks.dataset import embedded
from benchmarks.store import Store
from benchmarks.suite import Suite

FACTS: dict[str, Any] = {"cpu": "slow", "cores": 2, "code": "abc", "torch": "2"}
LATER = {"time": "2100-01-01T00:00:00+00:00"}


def row(entry: str, status: str = "measured", **facts: Any) -> store.Row:
    result = Result(status, {"parameters": 1}, "" if status == "measured" else "why")
    return store.row_of(Case(entry, "params"), result, FACTS | facts, "bench")


@pytest.fixture
def results(tmp_path: Path) -> Store:
    return Store(tmp_path / "deep" / "results.jsonl")


def test_a_line_that_was_cut_off_is_skipped_and_loses_nothing_else(results: Store) -> None:
    results.append(row("A"))
    results.append(row("B", "failed"))
    assert results.rows() == [row("A"), row("B", "failed")]
    results.path.write_bytes(results.path.read_bytes()[:-40])
    results.append(row("C"))
    assert [r["cell"]["entry"] for r in results.rows()] == ["A", "C"]
    assert set(results.done(FACTS)) == {row("A")["key"], row("C")["key"]}


def test_a_full_disk_is_named_and_costs_no_other_row(results: Store) -> None:
    resource = pytest.importorskip("resource", reason="no limits of file size on Windows")
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


def test_a_file_that_cannot_be_written_is_named_before_anything_is_measured(
    results: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", "results.jsonl.lock")

    monkeypatch.setattr(FileLock, "acquire", read_only)
    monkeypatch.setattr(worker, "run", None)
    with pytest.raises(OSError, match=r"Read-only file system: .*/results\.jsonl'"):
        runner.run(Suite(["FCOS_shapes_tiny"]), results)


def test_rows_of_a_later_time_than_now_are_named_and_stay_the_newest(results: Store) -> None:
    results.append(row("A"))
    results.check()  # no warning
    results.append(row("A") | LATER)  # before the clock was set back
    with pytest.warns(UserWarning, match=r"results\.jsonl has a row of 2100-.* later than now"):
        results.check()
    results.append(row("A"))
    assert store.newest(results.rows()) == [row("A") | LATER]


def test_concurrent_writers_lose_no_line(results: Store) -> None:
    context = multiprocessing.get_context("spawn")
    many = [[row(f"{name}{n}") | {"padding": "x" * 20_000} for n in range(20)] for name in "AB"]
    writers = [context.Process(target=append, args=(results.path, rows)) for rows in many]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    entries = [r["cell"]["entry"] for r in results.rows()]
    assert sorted(entries) == sorted(f"{name}{n}" for name in "AB" for n in range(20))
    assert all(json.loads(line) for line in results.path.read_text().splitlines())


def test_done_are_the_measured_cases_of_this_machine_code_and_torch(results: Store) -> None:
    for facts in ({}, {"cpu": "fast"}, {"code": "new"}, {"torch": "3"}, {"driver": "580"}):
        results.append(row("A", **facts))
    results.append(row("B", "timed out"))
    assert list(results.done(FACTS)) == [row("A")["key"]]
    for name in ("code", "torchvision", "cuda"):
        assert list(results.done(FACTS | {name: "newer"})) == []


FOUR, ONE = (row("A") | {"values": {"processes": count}} for count in (4, 1))
ONE_OF_NEW_CODE = row("A", code="new") | {"values": {"processes": 1}}
FAST = row("A", cpu="fast")


@pytest.mark.parametrize(
    ("rows", "newest"),
    [
        ([row("A", "failed"), row("B"), row("A"), FAST], [row("A"), row("B"), FAST]),
        ([row("A") | LATER, row("A")], [row("A") | LATER]),
        ([FOUR, ONE], [FOUR]),
        ([ONE, FOUR], [FOUR]),
        ([FOUR, ONE_OF_NEW_CODE], [ONE_OF_NEW_CODE]),
        ([row("A"), row("A", "missing")], [row("A")]),
        ([row("A"), row("A", "missing", code="new")], [row("A", "missing", code="new")]),
    ],
)
def test_the_newest_row_counts_unless_fewer_processes_of_the_same_code_measured_it(
    rows: list[store.Row], newest: list[store.Row]
) -> None:
    assert store.newest(rows) == newest


def test_a_missing_file_and_one_of_a_newer_version_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    with pytest.raises(FileNotFoundError, match="no such results file"):
        store.read([file])
    file.write_text(json.dumps({**row("A"), "schema": store.SCHEMA + 1}) + "\n")
    with pytest.raises(ValueError, match="newer version"):
        store.read([file])
    file.write_text('{"key": "k"}\n')
    with pytest.raises(ValueError, match="jsonl:1: not a row of results: machine is missing"):
        store.read([file])


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
    change: dict[str, Any], problem: str, results: Store
) -> None:
    for one in (row("A"), {**row("B"), **change}, row("C")):
        results.append(one)
    with pytest.warns(UserWarning, match=f"results.jsonl:2: not a row of results: {problem}"):
        rows = results.rows()
    assert [r["cell"]["entry"] for r in rows] == ["A", "C"]


def test_keys_match_stored_rows_and_depend_on_the_content_of_files() -> None:
    def case(path: str, digest: str) -> Case:
        dataset = Dataset(path, path, "set", digest)
        return Case("A", "ap", dataset=dataset, weights=Weights("file", path, digest))

    assert case("/here", "1").key == case("/there", "1").key != case("/here", "2").key
    timing = TimingBudget(2, 0, 1, 20)
    settings = {"threads": 2, "dataset": embedded(), "limit": 2, "timing": timing}
    assert Case("FCOS_R_50_1x", "latency", **settings).key == "fe1ece37e705"
