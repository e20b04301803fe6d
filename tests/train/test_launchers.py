"""How a process learns that it is one of several."""

import subprocess
import sys

import pytest
import torch

from fcos.train import distributed

LAUNCHER = (*distributed.LAUNCHER_VARIABLES, "LOCAL_RANK", "SLURM_STEP_NUM_TASKS")


@pytest.fixture
def environment(monkeypatch):
    """Sets variables of the environment, after those of launchers were removed."""
    for name in LAUNCHER:
        monkeypatch.delenv(name, raising=False)

    def set_variables(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_variables


def test_a_stray_world_size_does_not_keep_a_process_from_training(environment):
    environment(WORLD_SIZE="8")
    with (
        pytest.warns(UserWarning, match="WORLD_SIZE=8 is set but RANK, MASTER_ADDR, MASTER_PORT"),
        distributed.process_group("cpu") as device,
    ):
        assert (device, distributed.world()) == (torch.device("cpu"), 1)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("variables", [{}, {"WORLD_SIZE": "1"}, {"LOCAL_RANK": "0"}])
def test_one_process_needs_no_variables(environment, variables):
    environment(**variables)
    with distributed.process_group("cpu"):
        assert distributed.world() == 1
        assert distributed.any_rank(True)
        assert not distributed.any_rank(False)


def test_all_processes_stop_where_one_is_asked_to(tmp_path):
    script = """if True:
        import os
        from fcos.train import distributed
        with distributed.process_group("cpu"):
            first = distributed.rank() == 0
            text = f"{distributed.any_rank(first)} {distributed.any_rank(False)}\\n"
            os.write(1, text.encode())  # a line as a whole, not mixed with the other process's
    """
    path = tmp_path / "script.py"
    path.write_text(script)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    run = subprocess.run([*launch, str(path)], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["True False"] * 2
