"""What a run does when files, folders or the machine are not as it left them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest
from tiny_detector import ENTRY, SHORT

from fcos.train.metrics import read


@pytest.fixture
def command(data, tmp_path):
    """The same command as of `train`, for another process."""
    given = [f"data.train={data}", f"run.folder={tmp_path / 'run'}", *SHORT]
    return [sys.executable, "-m", "tools.cli", "train", ENTRY, *given]


def test_a_changed_dataset_is_not_resumed(data, train, capsys):
    assert train() == 0
    content = json.loads(data.read_text())
    content["annotations"][0]["bbox"][2] -= 2
    data.write_text(json.dumps(content))
    assert train("--resume", "schedule.iterations=3") == 1
    assert "was trained on another state of the dataset" in capsys.readouterr().err


def test_an_evaluation_after_resuming_records_the_rate_of_the_schedule(data, train, tmp_path):
    metrics = tmp_path / "run" / "metrics.jsonl"
    options = [f"data.test={data}", "solver.warmup.iterations=0"]
    assert train(*options) == 0
    records = [record for record in read(metrics) if "AP" not in record]
    metrics.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert train(*options, "--resume", "schedule.steps=[1]") == 0
    (evaluation,) = [record for record in read(metrics) if "AP" in record]
    assert evaluation["rate"] == pytest.approx(0.005)


def test_a_folder_that_cannot_be_written_is_named(train, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert train(f"run.folder={tmp_path / 'file' / 'run'}") == 1
    assert f"{tmp_path}/file/run cannot be written" in capsys.readouterr().err.replace("\n", "")


@pytest.mark.parametrize("limit", [0, 10_000])
def test_a_disk_that_fills_up_is_named(train, tmp_path, capsys, limit):
    """Neither the first record of the run, nor the first checkpoint, fits."""
    resource = pytest.importorskip("resource", reason="no limits of file size on Windows")
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, usual[1]))  # no file can be larger
    try:
        assert train() == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    lines = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "run") in lines[-1]
    assert "File too large" in lines[-1]
    assert train("--resume") == 0


def test_a_signal_before_the_first_step_ends_the_run(command, tmp_path):
    endless = [*command, "schedule.iterations=1000000"]
    process = subprocess.Popen(endless, stderr=subprocess.DEVNULL)
    while not (tmp_path / "run" / "run.lock").exists():
        assert process.poll() is None
        time.sleep(0.01)
    while process.poll() is None:  # Python ignores an exception of a handler in a few places
        process.send_signal(signal.SIGINT)
        time.sleep(1)
    assert process.returncode in (-signal.SIGINT, 128 + signal.SIGINT)
