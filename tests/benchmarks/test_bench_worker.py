"""No case can touch another: crashes, hangs and errors are recorded, the rest is measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import measuring
import pytest

from benchmarks import measure, weights, worker
from benchmarks.cases import Case, Dataset, Result
from benchmarks.worker import run
from fcos.data import shapes

ROOT = Path(measure.__file__).parent.parent


def results(*entries: str, timeout: float = 60) -> dict[str, Result]:
    wanted = [Case(entry, "params", threads=1) for entry in entries]
    return {case.entry: result for case, result in run(wanted, timeout, measuring.measure)}


def test_a_case_is_measured_in_a_process_with_its_threads() -> None:
    [result] = results("fine").values()
    assert result.status == "measured"
    assert result.values == {"entry": "fine", "threads": "1"}
    assert result.seconds > 0


def test_a_process_has_the_environment_of_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    results("first")  # starts the fork server
    monkeypatch.setenv("FCOS_ZOO_CONFIGS", "mine")
    assert results("environment")["environment"].values == {"folders": "mine"}


def test_a_process_of_other_code_than_the_suite_began_with_measures_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, "fingerprint", lambda: "as it was")
    found = results("first", "second")
    assert {result.status for result in found.values()} == {"failed"}
    assert "the code changed" in found["second"].reason


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the forkserver here")
def test_the_fork_server_has_only_imported_modules() -> None:
    assert results("fresh")["fresh"].values == {"threads of the original": 1, "GPU in use": False}


@pytest.mark.parametrize(
    ("entry", "status", "reason"),
    [
        ("exits", "crashed", "exit code 3"),
        ("segfaults", "crashed", "SIGSEGV: Fatal Python error: Segmentation fault"),
        ("killed", "out of memory", "killed by the system"),
    ],
)
def test_a_crash_is_recorded_and_the_next_case_measured(
    entry: str, status: str, reason: str
) -> None:
    found = results("first", entry, "last")
    assert found[entry].status == status
    assert reason in found[entry].reason
    assert found["first"].status == found["last"].status == "measured"


def test_values_other_than_times_are_identical_in_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FCOS_ZOO_HOME", str(tmp_path))
    entry, annotations = "FCOS_shapes_tiny", shapes.write(tmp_path, 8, size=160)
    dataset = Dataset.of(annotations, annotations.parent / "images")
    wanted = [Case(entry, metric, threads=1) for metric in ("params", "flops", "training_memory")]
    wanted.append(Case(entry, "ap", threads=1, dataset=dataset, weights=weights.resolve(entry)))
    for case, result in run(wanted):
        assert json.dumps(result.values) == json.dumps(measure.measure(case))
    assert result.values["AP"] > 0.3


def test_a_hanging_case_is_ended_and_the_next_one_measured() -> None:
    found = results("hangs", "last", timeout=10)
    assert found["hangs"].status == "timed out"
    assert "10 s" in found["hangs"].reason
    assert found["last"].status == "measured"


def test_a_process_does_not_outlive_a_suite_that_was_killed(tmp_path: Path) -> None:
    started = tmp_path / "pid"
    script = tmp_path / "suite.py"
    script.write_text(
        "import sys\n"
        f"sys.path[:0] = [{str(Path(measuring.__file__).parent)!r}, {str(ROOT)!r}]\n"
        "import measuring\n"
        "from benchmarks.cases import Case\n"
        "from benchmarks.worker import run\n"
        "if __name__ == '__main__':\n"
        f"    list(run([Case({f'hangs {started}'!r}, 'params')], 60, measuring.measure))\n"
    )
    suite = subprocess.Popen([sys.executable, str(script)])
    while not (started.is_file() and started.read_text()):
        assert suite.poll() is None
        time.sleep(0.1)
    suite.kill()
    suite.wait()
    wait_for_the_end_of(int(started.read_text()))


def wait_for_the_end_of(pid: int) -> None:
    for _ in range(300):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{pid}/stat").is_file() and ") Z" in Path(f"/proc/{pid}/stat").read_text():
            return  # it ended, but nobody has asked for its exit code
        time.sleep(0.1)
    raise AssertionError(f"process {pid} still runs after 30 s")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no process groups")
def test_children_of_a_measuring_process_end_with_it(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    [result] = results(f"leaves a child {file}").values()
    assert result.status == "measured"
    wait_for_the_end_of(int(file.read_text()))


def test_ctrl_c_ends_the_parent_s_run_and_not_the_measurement() -> None:
    assert results("interrupted")["interrupted"].status == "measured"


def test_an_error_is_recorded_and_the_process_continues() -> None:
    found = results("no memory", "no GPU memory", "wrong", "missing", "last")
    assert [result.status for result in found.values()] == [
        "out of memory",
        "out of memory",
        "failed",
        "missing",
        "measured",
    ]
    assert found["wrong"].reason == "ValueError: nonsense"
    assert found["missing"].reason == "no weights"
    assert "Tried to allocate" in found["no GPU memory"].reason
