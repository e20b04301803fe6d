"""How a process learns that it is one of several."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fcos.train import distributed

# Rank 1 dies once under torchrun; all ranks must then find each other again.
SCRIPT = """
import os, signal
from fcos.train import distributed
with distributed.process_group("cpu"):
    distributed.barrier()
    if os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0" and distributed.rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    distributed.barrier()
    line = f"{distributed.gather(distributed.rank())} {distributed.world()}\\n"
    os.write(1, line.encode())  # at once, so that lines of two processes do not mix
"""
SHELL = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch):
    for name in [*os.environ]:
        if name.startswith("SLURM_") or name in (*distributed.LAUNCHER_VARIABLES, "LOCAL_RANK"):
            monkeypatch.delenv(name)


def test_a_stray_world_size_does_not_keep_a_process_from_training(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    with (
        pytest.warns(UserWarning, match="WORLD_SIZE=8 is set but RANK, MASTER_ADDR, MASTER_PORT"),
        distributed.process_group("cpu") as device,
    ):
        assert (device, distributed.world()) == (torch.device("cpu"), 1)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"WORLD_SIZE": "1"},
        {"LOCAL_RANK": "0"},
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "8"},
        {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_NUM_TASKS": "1"},
        {"SLURM_STEP_NUM_TASKS": "4"},
        {"SLURM_STEP_NUM_TASKS": "", "SLURM_PROCID": "", "SLURM_JOB_ID": ""},
        {**SHELL, "SLURM_PTY_PORT": "12345"},
    ],
)
def test_one_process_trains_on_its_own(monkeypatch, variables):
    """Also in a shell of a Slurm job."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with distributed.process_group("cpu"):
        assert distributed.world() == 1
        assert distributed.maximum(7) == 7


@pytest.fixture
def start(tmp_path):
    """Starts Python on the script above, with some arguments before it."""
    (tmp_path / "script.py").write_text(SCRIPT)

    def run(*arguments, **variables):
        root = str(Path(distributed.__file__).parents[2])
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root, **variables}
        command = [sys.executable, *arguments, str(tmp_path / "script.py")]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)

    return run


def test_slurm_tasks_join(start):
    """`srun` starts the command itself, several times, and says so in its own variables."""
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1"}
    step["SLURM_JOB_ID"] = str(os.getpid())
    tasks = [start(**step, SLURM_PROCID=task, SLURM_LOCALID=task) for task in "01"]
    assert [task.communicate(timeout=600)[0] for task in tasks] == ["[0, 1] 2\n", "[] 2\n"]


def test_a_restarted_process_joins_again(start):
    """torchrun serves all restarts one store, with the addresses of the processes that ended."""
    options = ["--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    agent = start("-m", "torch.distributed.run", *options)
    output, _ = agent.communicate(timeout=600)
    assert agent.returncode == 0
    assert sorted(output.split("\n")) == ["", "[0, 1] 2", "[] 2"]
