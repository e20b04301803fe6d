"""How a process learns that it is one of several."""

import os

import pytest
import torch

from fcos.train import distributed

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
