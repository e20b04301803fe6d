"""`fcos-zoo train` as users run it: their own data, fine-tuning, kills, nodes."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from tiny_detector import ENTRY, SHORT

import zoo
from fcos.data.shapes import write
from fcos.train.metrics import read
from tools import cli

# 8 iterations that can be interrupted between checkpoints.
STEPS = ["schedule.iterations=8", "run.log_every=1", "run.checkpoint_every=2"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Another dataset than the entry's: four classes, of which three are new."""
    folder = tmp_path_factory.mktemp("own")
    return write(folder, 8, seed=3, size=96, classes=("star", "cross", "arrow", "circle"))


@pytest.fixture
def own(drawn, tmp_path):
    """Arguments that train on that dataset in the folder `run`."""
    folder = f"run.folder={tmp_path / 'run'}"
    return [f"data.train={drawn}", *SHORT, *STEPS, "run.evaluate_every=100", folder]


def command(*arguments):
    return [sys.executable, "-m", "tools.train", f"entry={ENTRY}", *map(str, arguments)]


def start(arguments, log, **variables):
    root = str(Path(zoo.__file__).parents[1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root, **variables}
    with log.open("ab") as file:
        return subprocess.Popen(arguments, stdout=file, stderr=file, env=environment)


def wait_for_iteration(run, iteration, process, log):
    """Until the run has recorded so many iterations."""
    end = time.monotonic() + 600
    while not any(r["iteration"] >= iteration for r in read(run / "metrics.jsonl")):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.02)


def weights(run):
    return torch.load(run / f"{ENTRY}.pth", weights_only=True)["model"]


def test_killed_at_any_moment_and_resumed_it_is_the_same_run(tmp_path, own):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert cli.run(["train", ENTRY, *own, f"run.folder={whole}"]) == 0
    process = start(command(*own, f"run.folder={killed}"), tmp_path / "log")
    wait_for_iteration(killed, 3, process, tmp_path / "log")
    process.kill()  # -9, in the middle of whatever it does
    process.wait(timeout=600)
    assert cli.run(["train", ENTRY, *own, f"run.folder={killed}", "--resume"]) == 0
    resumed = weights(killed)
    assert all(torch.equal(value, resumed[key]) for key, value in weights(whole).items())
    losses, others = ([r["loss"] for r in read(run / "metrics.jsonl")] for run in (whole, killed))
    assert losses == others
    assert len(losses) == 8


def test_your_own_dataset_brings_its_classes(tmp_path, own, drawn, capfd):
    run = tmp_path / "run"
    assert cli.run(["train", ENTRY, *own, f"data.test={drawn}"]) == 0
    assert re.search("[78] images of 4 classes", capfd.readouterr().err)
    detector = zoo.get(ENTRY, weights=run / f"{ENTRY}.pth")
    assert detector.classes == ("star", "cross", "arrow", "circle")
    (figures,) = [record for record in read(run / "metrics.jsonl") if "AP" in record]
    assert set(figures["per_class"]) == set(detector.classes)
    assert yaml.safe_load((run / "config.yaml").read_text())["solver"]["batch"] == 4
    with pytest.raises(FileExistsError, match=r"holds a run: continue it with --resume"):
        cli.run(["train", ENTRY, *own])


def test_fine_tuning_changes_only_the_class_predictor(tmp_path, own, capfd):
    """Also where the job always says --resume, and there is nothing to resume yet."""
    torch.manual_seed(5)
    source = zoo.build(ENTRY)
    torch.save({"model": source.state_dict(), "classes": list(source.classes)}, tmp_path / "s.pth")
    options = [f"init.checkpoint={tmp_path / 's.pth'}", "schedule.iterations=1", "solver.base_lr=0"]
    assert cli.run(["train", ENTRY, *own, *options, "--resume"]) == 0
    lines = capfd.readouterr().err
    assert "the class predictor is initialised again, from 3 to 4 classes" in lines
    tuned, before = weights(tmp_path / "run"), source.state_dict()
    assert tuned["head.cls_logits.weight"].shape[0] == 4
    assert f"{len(before) - 2} tensors copied" in lines
    learnt = [name for name, _ in source.named_parameters() if "cls_logits" not in name]
    assert all(torch.equal(tuned[name], before[name]) for name in learnt)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("data.train=nothing.json", "neither a dataset's file or folder nor one of coco_2017"),
        ("init.checkpoint=FCOS_R_50_1", "did you mean FCOS_R_50_1x"),
        ("init.checkpoint=runs/best.pht", "runs/best.pht cannot be read: No such file"),
        ("solver.accumulate=3", "4 images of a process cannot be split into 3 equal micro-batches"),
        ("schedule.steps=[3,2]", "schedule steps .3, 2. are not in ascending order"),
    ],
)
def test_a_mistake_is_one_clear_line(own, argument, message):
    with pytest.raises((ValueError, LookupError, OSError, RuntimeError), match=message):
        cli.run(["train", ENTRY, *own, argument])


def test_two_nodes_and_a_worker_that_dies(tmp_path, own, monkeypatch):
    """torchrun on two machines, both this one, of which one loses its process.

    The run continues from a checkpoint and comes to its end, without a gap in its records.
    """
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    run, log = tmp_path / "run", tmp_path / "log"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        at = f"--rdzv-endpoint=localhost:{free.getsockname()[1]}"
    agents = []
    for host in (1, 0):
        launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--max-restarts=2"]
        launch += ["--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-conf=is_host={host}", at]
        agents.append(start([*launch, *command(*own)[1:]], log))
    wait_for_iteration(run, 3, agents[0], log)
    children = Path(f"/proc/{agents[0].pid}/task/{agents[0].pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    for agent in agents:
        assert agent.wait(timeout=600) == 0, log.read_text()
    assert [record["iteration"] for record in read(run / "metrics.jsonl")] == [*range(1, 9)]
    starts = re.findall(r"on 2 x cpu, from iteration (\d)", log.read_text())
    assert starts[0] == "0"
    assert starts[-1] in ("2", "4", "6", "8")
