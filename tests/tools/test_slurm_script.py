"""`tools/train.sbatch`, with stand-ins for Slurm's commands and for the training."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from zoo.registry import CONFIGS

SCRIPT = CONFIGS.parent / "tools" / "train.sbatch"
SRUN = """#!/bin/bash
# Runs both tasks and returns the highest status, as srun does.
highest=0
for rank in 0 1; do
    SLURM_PROCID=$rank SLURM_LOCALID=$rank "$@"; status=$?
    ((status > highest)) && highest=$status
done
exit $highest
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then echo first; echo second; else echo "$@" >> requeued; fi
"""
TRAIN = """#!/bin/bash
echo "$RANK/$WORLD_SIZE $LOCAL_RANK $MASTER_ADDR:$MASTER_PORT $@" >> started
exit $STATUS
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Slurm's commands and variables in a job of two tasks."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("fcos-zoo", TRAIN)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "40007",
        "SLURM_JOB_NODELIST": "first,second",
        "SLURM_NTASKS": "2",
    }


@pytest.mark.parametrize(("status", "queued"), [(0, False), (1, False), (128 + 10, True)])
@pytest.mark.parametrize(
    ("restarts", "resume"), [({}, ""), ({"SLURM_RESTART_COUNT": "1"}, " --resume")]
)
def test_each_task_knows_its_rank_and_a_job_that_ran_out_of_time_is_queued_again(
    tmp_path: Path,
    environment: dict[str, str],
    status: int,
    queued: bool,
    restarts: dict[str, str],
    resume: str,
) -> None:
    done = subprocess.run(
        ["bash", str(SCRIPT), "FCOS_R_50_1x", "data.root=/with space"],
        cwd=tmp_path,
        env={**environment, **restarts, "STATUS": str(status)},
        check=False,
    )
    assert done.returncode == status
    arguments = f"first:20007 train FCOS_R_50_1x data.root=/with space{resume}\n"
    assert (tmp_path / "started").read_text() == f"0/2 0 {arguments}1/2 1 {arguments}"
    assert (tmp_path / "requeued").exists() == queued
