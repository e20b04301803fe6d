"""No case can disturb another: crashes, hangs and errors are recorded, the rest is measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import measuring
import pytest

import zoo
from benchmarks import measure, worker
from benchmarks.cases import Case, Dataset, Result
from benchmarks.worker import run
from benchmarks.workload import resolve_weights
from zoo import registry

ROOT = Path(measure.__file__).parent.parent
SUITE = """
import sys
sys.path[:0] = {folders!r}
import measuring
from benchmarks.cases import Case
from benchmarks.worker import run
if __name__ == '__main__':
    list(run([Case('hangs {started}', 'params')], 60, measuring.measure))
"""


def results(*entries: str, timeout: float = 60) -> dict[str, Result]:
    wanted = [Case(entry, "params", threads=1) for entry in entries]
    return {case.entry: result for case, result in run(wanted, timeout, measuring.measure)}


def test_a_process_has_the_threads_of_the_case_and_the_environment_of_the_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    [result] = results("fine").values()  # starts the fork server
    assert (result.status, result.values) == ("measured", {"entry": "fine", "threads": "1"})
    assert result.seconds > 0
    monkeypatch.setenv("FCOS_ZOO_CONFIGS", "mine")
    folders = {"folders": str(Path("mine").resolve())}
    assert results("environment")["environment"].values == folders


def test_a_process_knows_the_entries_that_were_registered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(registry, "_registered", [])
    text = "defaults: [/entry/FCOS_shapes_tiny@_here_, _self_]\nweights: []\n"
    (tmp_path / "FCOS_mine.yaml").write_text(text)
    zoo.register(tmp_path)
    [(_, result)] = run([Case("FCOS_mine", "params")])
    assert (result.status, result.reason) == ("measured", "")


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
        ("no memory", "out of memory", "not enough memory on the machine"),
        ("no GPU memory", "out of memory", "Tried to allocate"),
        ("wrong", "failed", "ValueError: nonsense"),
        ("missing", "missing", "no weights"),
        ("interrupted", "measured", ""),  # Ctrl-C ends the parent, not the measurement
    ],
)
def test_a_failure_is_recorded_and_the_next_case_measured(
    entry: str, status: str, reason: str
) -> None:
    found = results("first", entry, "last")
    assert found[entry].status == status
    assert reason in found[entry].reason
    assert found["first"].status == found["last"].status == "measured"


def test_a_hanging_case_is_ended_and_the_next_one_measured() -> None:
    found = results("hangs", "last", timeout=10)
    assert (found["hangs"].status, found["last"].status) == ("timed out", "measured")
    assert "10 s" in found["hangs"].reason


def test_values_other_than_times_are_identical_in_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn: Dataset
) -> None:
    monkeypatch.setenv("FCOS_ZOO_HOME", str(tmp_path))
    entry = "FCOS_shapes_tiny"
    wanted = [Case(entry, metric, threads=1) for metric in ("params", "flops", "training_memory")]
    wanted.append(Case(entry, "ap", threads=1, dataset=drawn, weights=resolve_weights(entry)))
    for case, result in run(wanted):
        assert json.dumps(result.values) == json.dumps(measure.measure(case))
    assert result.values["AP"] > 0.3


def test_a_process_does_not_outlive_a_suite_that_was_killed(tmp_path: Path) -> None:
    started, script = tmp_path / "pid", tmp_path / "suite.py"
    folders = [str(Path(measuring.__file__).parent), str(ROOT)]
    script.write_text(SUITE.format(folders=folders, started=started))
    suite = subprocess.Popen([sys.executable, str(script)])
    while not (started.is_file() and started.read_text()):
        assert suite.poll() is None
        time.sleep(0.1)
    suite.kill()
    suite.wait()
    wait_for_the_end_of(int(started.read_text()))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no process groups")
def test_children_of_a_measuring_process_end_with_it(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    [result] = results(f"leaves a child {file}").values()
    assert result.status == "measured"
    wait_for_the_end_of(int(file.read_text()))


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
