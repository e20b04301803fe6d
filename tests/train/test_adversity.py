"""What a run does when files, folders or the machine are not as it left them."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcos.data.shapes import write
from fcos.train import distributed
from fcos.train.metrics import read
from tools import cli

ENTRY = "FCOS_shapes_tiny"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "data", 8, seed=3, size=96)


def words(data: Path, run: Path, iterations: int = 2) -> list[str]:
    arguments = [f"data.train={data}", f"run.folder={run}", f"schedule.iterations={iterations}"]
    arguments += ["schedule.steps=[]", "resize.size=96", "solver.batch=4", "run.device=cpu"]
    return ["train", ENTRY, *arguments]


def train(data: Path, run: Path, *more: str, workers: int = 0) -> int:
    return cli.main([*words(data, run), f"data.workers={workers}", *more])


def test_a_changed_dataset_is_not_resumed(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(data, tmp_path / "run") == 0
    content = json.loads(data.read_text())
    content["annotations"][0]["bbox"][2] -= 2
    data.write_text(json.dumps(content))
    assert train(data, tmp_path / "run", "--resume", "schedule.iterations=3") == 1
    assert "was trained on another state of the dataset" in capsys.readouterr().err


def test_a_damaged_record_hides_no_other(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"iteration": 1}\n{"iterat\xff\n[3]\nnull\n{"iteration": 4}\n{"itera')
    assert read(path) == [{"iteration": 1}, {"iteration": 4}]


def test_an_evaluation_after_resuming_records_the_rate_of_the_schedule(data: Path, tmp_path: Path):
    run = tmp_path / "run"
    options = [f"data.test={data}", "solver.warmup.iterations=0"]
    assert train(data, run, *options) == 0
    records = [record for record in read(run / "metrics.jsonl") if "AP" not in record]
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert train(data, run, *options, "--resume", "schedule.steps=[1]") == 0
    (evaluation,) = [record for record in read(run / "metrics.jsonl") if "AP" in record]
    assert evaluation["rate"] == pytest.approx(0.005)


def test_a_folder_that_cannot_be_written_is_named(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert train(data, tmp_path / "file" / "run") == 1
    assert f"{tmp_path}/file/run cannot be written" in capsys.readouterr().err.replace("\n", "")


@pytest.mark.parametrize("limit", [0, 10_000])
def test_a_disk_that_fills_up_is_named(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], limit: int
) -> None:
    """Neither the first record of the run, nor the first checkpoint, fits."""
    resource = pytest.importorskip("resource", reason="no limits of file size on Windows")
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, usual[1]))  # no file can be larger
    try:
        assert train(data, tmp_path / "run", "run.loggers=[]") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    lines = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "run") in lines[-1]
    assert "File too large" in lines[-1]
    assert train(data, tmp_path / "run", "--resume") == 0


def test_a_clock_that_is_set_back_changes_neither_rates_nor_order(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, clock = tmp_path / "run", itertools.count(time.time(), -3600)
    monkeypatch.setattr(time, "time", lambda: next(clock))
    options = ["run.log_every=1", "run.checkpoint_every=1"]
    assert train(data, run, *options) == 0
    os.utime(run / "checkpoints" / "iteration_0000002.pth", (0, 0))
    assert train(data, run, *options, "--resume", "schedule.iterations=3") == 0
    records = read(run / "metrics.jsonl")
    assert [record["iteration"] for record in records] == [1, 2, 3]
    assert all(record["images_per_second"] > 0 for record in records)


def test_pixels_that_are_no_numbers_are_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(data.read_text())
    first = content["images"][0]
    pixels = np.full((first["height"], first["width"]), np.nan, np.float32)
    Image.fromarray(pixels).save(data.parent / "images" / "nan.tiff")
    first["file_name"] = "nan.tiff"
    data.write_text(json.dumps(content))
    assert train(data, tmp_path / "run") == 1
    assert "nan.tiff" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounts need root")
def test_without_shared_memory_the_remedy_is_named(data: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tools.cli", *words(data, tmp_path / "run"), "data.workers=1"]
    script = 'mount -t tmpfs -o ro none /dev/shm || exit 77; exec "$@"'
    unshared = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", *command], capture_output=True, text=True
    )
    if unshared.returncode == 77 or "unshare" in unshared.stderr:
        pytest.skip("this system does not let us mount")
    assert unshared.returncode == 1
    assert "ran out of shared memory or file descriptors" in unshared.stderr


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_a_signal_before_the_first_step_ends_the_run(data: Path, tmp_path: Path, name: str) -> None:
    run, number = tmp_path / "run", getattr(signal, name)
    command = [sys.executable, "-m", "tools.cli", *words(data, run, 1_000_000), "data.workers=0"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while not (run / "run.lock").exists():
        assert process.poll() is None
        time.sleep(0.01)
    while process.poll() is None:  # Python ignores an exception of a handler in a few places
        process.send_signal(number)
        time.sleep(1)
    assert process.returncode in (-number, 128 + number)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "variables",
    [
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "8"},
        {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_NUM_TASKS": "1"},
        {"SLURM_STEP_NUM_TASKS": "4"},
        {"SLURM_STEP_NUM_TASKS": "", "SLURM_PROCID": "", "SLURM_JOB_ID": ""},
        {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
        | {"SLURM_PTY_PORT": "12345"},
    ],
)
def test_a_shell_in_a_slurm_job_trains_on_its_own(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name in [*os.environ]:
        if name.startswith("SLURM_") or name in distributed.LAUNCHER_VARIABLES:
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with distributed.process_group("cpu"):
        assert distributed.world() == 1
