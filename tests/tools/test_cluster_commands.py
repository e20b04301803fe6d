"""Training on a cluster: `python -m tools.sweep`, and `tools/train.sbatch` without Slurm."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

import tools.sweep
import zoo
from fcos.train.distributed import STOP
from zoo.config import compose_entry
from zoo.registry import CONFIGS

SHORT = [
    "schedule.iterations=4",
    "solver.batch=2",
    "run.device=cpu",
    "run.log_every=1",
    "run.checkpoint_every=2",
    "run.evaluate_every=100",
    "data.workers=0",
    "data.shapes.train.count=6",
    "data.shapes.test.count=2",
]
QUIET = ["hydra/job_logging=none", "hydra/hydra_logging=none"]


@pytest.mark.parametrize("module", ["tools.sweep", "tools.spread"])
def test_help_shows_how_the_command_is_used(module: str) -> None:
    text = subprocess.check_output([sys.executable, "-m", module, "--help"], text=True)
    assert f"\n    python -m {module} " in text
    assert "powered by Hydra" not in text


def test_an_unknown_entry_is_named_in_one_line() -> None:
    tools.sweep.check_entries(["entry=FCOS_R_50_1x,FCOS_shapes_tiny", "entry=glob(FCOS*)"])
    with pytest.raises(LookupError, match=r"no entry 'FCOS_R_50_x1' in the zoo: did you mean"):
        tools.sweep.check_entries(["--multirun", "entry=FCOS_R_50_1x,FCOS_R_50_x1"])


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The command, in this process and a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> None:
        given = tools.sweep.hydra_arguments(["--multirun", *SHORT, *QUIET, *arguments])
        monkeypatch.setattr(sys, "argv", ["sweep", *given])
        try:
            tools.sweep.main()
        finally:
            GlobalHydra.instance().clear()

    return run


def iterations(run: Path) -> list[int]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [record["iteration"] for record in map(json.loads, lines) if "loss" in record]


def test_each_job_has_a_folder_where_it_is_resumed(
    sweep: Callable[..., None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rates = ["solver.base_lr=0.01,0.02", "hydra.sweep.dir=rates"]
    sweep(*rates)
    for number, rate in enumerate((0.01, 0.02)):
        run = tmp_path / "rates" / str(number)
        assert yaml.safe_load((run / "config.yaml").read_text())["solver"]["base_lr"] == rate
        assert iterations(run) == [1, 2, 3, 4]
        assert (run / "FCOS_shapes_tiny.pth").is_file()
    capfd.readouterr()

    (tmp_path / "rates" / "1" / "checkpoints" / "iteration_0000004.pth").unlink()
    sweep(*rates)
    said = capfd.readouterr().err
    assert said.index("from iteration 4 of") < said.index("from iteration 2 of")
    assert iterations(tmp_path / "rates" / "1") == [1, 2, 3, 4]

    with pytest.raises(SystemExit):
        sweep("solver.base_lr=0.03", "hydra.sweep.dir=rates")
    said = capfd.readouterr().err
    assert "holds a run with other settings: choose another hydra.sweep.dir" in said


def test_a_recipe_cannot_choose_the_folder_of_a_job(
    sweep: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        sweep("run.folder=mine")
    assert "set hydra.sweep.dir, not run.folder" in capfd.readouterr().err


def test_entries_of_registered_folders_can_be_swept(
    sweep: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = "[/entry/FCOS_shapes_tiny@_here_, override /backbone: narrow, _self_]"
    folder = tmp_path / "my zoo"
    (folder / "backbone").mkdir(parents=True)
    (folder / "FCOS_mine.yaml").write_text(f"defaults: {defaults}\nhead: {{tower_depth: 1}}\n")
    (folder / "backbone" / "narrow.yaml").write_text(
        "# @package _global_\nbackbone: {_target_: backbones.TinyNet}\n"
    )
    monkeypatch.setenv("FCOS_ZOO_CONFIGS", str(folder))
    sweep("entry=FCOS_mine", "hydra.sweep.dir=entries")
    config = yaml.safe_load((tmp_path / "entries" / "0" / "config.yaml").read_text())
    assert config["head"]["tower_depth"] == 1
    assert (tmp_path / "entries" / "0" / "FCOS_mine.pth").is_file()


def test_every_entry_can_be_swept() -> None:
    for name in ("FCOS_R_50_1x", "FCOS_HRNet_W18_5l_2x", "FCOS_R_50_noctr_2x"):
        with initialize_config_dir(str(CONFIGS), version_base=None):
            swept = compose("sweep", overrides=[f"entry={name}", "solver.batch=8"])
        assert OmegaConf.to_container(swept, resolve=True) == compose_entry(
            name, ["solver.batch=8"]
        )


def test_the_example_for_slurm_gives_each_gpu_a_process() -> None:
    example = yaml.safe_load((CONFIGS / "hydra" / "launcher" / "slurm.yaml").read_text())
    assert example["defaults"] == ["submitit_slurm", "_self_"]
    assert example["tasks_per_node"] == example["gpus_per_node"]
    batch = zoo.card("FCOS_R_50_1x").config["solver"]["batch"]
    assert batch % (example["nodes"] * example["tasks_per_node"]) == 0


def test_the_trainer_and_the_launcher_agree_on_the_signal() -> None:
    assert f"SIG{os.environ['SUBMITIT_PREEMPT_SIGNAL']}" in STOP


SCRIPT = CONFIGS.parent / "tools" / "train.sbatch"
SRUN = """#!/bin/bash
# Runs both tasks at once and returns the highest status, as srun does.
SLURM_PROCID=0 SLURM_LOCALID=0 "$@" & first=$!
SLURM_PROCID=1 SLURM_LOCALID=1 "$@" & second=$!
wait $first; highest=$?
wait $second; status=$?
exit $((status > highest ? status : highest))
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then echo localhost; echo second; else echo "$@" >> requeued; fi
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
        "SLURM_JOB_NODELIST": "localhost,second",
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
    arguments = f"localhost:20007 train FCOS_R_50_1x data.root=/with space{resume}"
    started = sorted((tmp_path / "started").read_text().splitlines())
    assert started == [f"0/2 0 {arguments}", f"1/2 1 {arguments}"]
    assert (tmp_path / "requeued").exists() == queued


def test_the_tasks_of_a_job_train_one_model_together(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    script = f'#!/bin/bash\nexec "{sys.executable}" -m tools.cli "$@"\n'
    (tmp_path / "bin" / "fcos-zoo").write_text(script)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment["SLURM_JOB_ID"] = str((port - 20000) % 40000)
    settings = [*SHORT, "run.folder=run"]
    done = subprocess.run(
        ["bash", str(SCRIPT), "FCOS_shapes_tiny", *settings],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(CONFIGS.parent), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert iterations(tmp_path / "run") == [1, 2, 3, 4]
    assert done.stderr.count("next: fcos-zoo predict") == 1  # of the first of two processes
