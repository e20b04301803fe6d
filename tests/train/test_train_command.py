"""`fcos-zoo train` as users run it: their own data, fine-tuning, kills, nodes."""

import json
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

import zoo
from fcos.data.shapes import write
from fcos.train.metrics import read
from tools import cli

# A run of seconds: few small images, 8 iterations.
SHORT = [
    "schedule.iterations=8",
    "data.workers=0",
    "solver.batch=4",
    "run.device=cpu",
    "run.log_every=1",
    "run.checkpoint_every=2",
    "run.evaluate_every=100",
    "resize.size=96",
]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Another dataset than the entry's: four classes, of which three are new."""
    folder = tmp_path_factory.mktemp("own")
    return write(folder, 8, seed=3, size=96, classes=("star", "cross", "arrow", "circle"))


@pytest.fixture(scope="module")
def own(drawn):
    """Arguments that train on that dataset."""
    return [f"data.train={drawn}", *SHORT]


def command(*arguments):
    return [sys.executable, "-m", "tools.train", "entry=FCOS_shapes_tiny", *map(str, arguments)]


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(zoo.__file__).parents[1])}


def start(arguments, log):
    with log.open("ab") as file:
        return subprocess.Popen(arguments, stdout=file, stderr=file, env=environment())


def wait_for_iteration(run, iteration, process, log):
    """Until the run has recorded so many iterations."""
    end = time.monotonic() + 60
    while not any(r["iteration"] >= iteration for r in read(run / "metrics.jsonl")):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.02)


def weights(run):
    return torch.load(run / "FCOS_shapes_tiny.pth", weights_only=True)["model"]


def test_killed_at_any_moment_and_resumed_it_is_the_same_run(tmp_path, own):
    for name in ("whole", "killed"):
        process = start(command(f"run.folder={tmp_path / name}", *own), tmp_path / "log")
        if name == "killed":
            wait_for_iteration(tmp_path / name, 3, process, tmp_path / "log")
            process.kill()  # -9, in the middle of whatever it does
        process.wait(timeout=90)
    folder = f"run.folder={tmp_path / 'killed'}"
    assert cli.run(["train", "FCOS_shapes_tiny", folder, *own, "--resume"]) == 0
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())
    losses = [
        [r["loss"] for r in read(tmp_path / n / "metrics.jsonl")] for n in ("whole", "killed")
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 8


def test_your_own_dataset_brings_its_classes(tmp_path, own, drawn, capfd):
    run = tmp_path / "run"
    given = [*own, f"run.folder={run}", f"data.test={drawn}"]
    assert cli.run(["train", "FCOS_shapes_tiny", *given]) == 0
    said = capfd.readouterr().err
    assert "8 images of 4 classes" in said or "7 images of 4 classes" in said
    detector = zoo.get("FCOS_shapes_tiny", weights=run / "FCOS_shapes_tiny.pth")
    assert detector.classes == ("star", "cross", "arrow", "circle")
    (figures,) = [record for record in read(run / "metrics.jsonl") if "AP" in record]
    assert set(figures["per_class"]) == set(detector.classes)


def test_fine_tuning_renews_the_class_predictor_alone(tmp_path, own, capfd):
    torch.manual_seed(5)
    source = zoo.build("FCOS_shapes_tiny")
    torch.save({"model": source.state_dict(), "classes": list(source.classes)}, tmp_path / "s.pth")
    frozen = [f"run.folder={tmp_path / 'run'}", f"init.checkpoint={tmp_path / 's.pth'}"]
    arguments = ["FCOS_shapes_tiny", *own, *frozen, "schedule.iterations=1", "solver.base_lr=0"]
    assert cli.run(["train", *arguments]) == 0
    said = capfd.readouterr().err
    assert "the class predictor is initialised again, from 3 to 4 classes" in said
    tuned, before = weights(tmp_path / "run"), source.state_dict()
    assert tuned["head.cls_logits.weight"].shape[0] == 4
    learnt = [name for name, _ in source.named_parameters() if "cls_logits" not in name]
    assert f"{len(before) - 2} tensors copied" in said
    assert all(torch.equal(tuned[name], before[name]) for name in learnt)


def test_resuming_an_empty_run_starts_from_the_initial_weights(tmp_path, own):
    """A job that always says --resume, or a worker that dies before the first checkpoint."""
    torch.manual_seed(5)
    source = zoo.build("FCOS_shapes_tiny", num_classes=4)
    torch.save({"model": source.state_dict(), "classes": list("abcd")}, tmp_path / "s.pth")
    options = [f"init.checkpoint={tmp_path / 's.pth'}", "schedule.iterations=1", "solver.base_lr=0"]
    run = f"run.folder={tmp_path / 'run'}"
    assert cli.run(["train", "FCOS_shapes_tiny", *own, run, *options, "--resume"]) == 0
    name = "head.box_pred.weight"
    assert torch.equal(weights(tmp_path / "run")[name], source.state_dict()[name])


def test_slurm_tasks_train_together(tmp_path, own):
    """`srun` starts the command itself, several times, and says so in its own variables."""
    tasks = []
    for task in ("0", "1"):
        step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": task, "SLURM_LOCALID": task}
        step |= {"SLURM_JOB_ID": str(os.getpid()), "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1"}
        arguments = command(*own, f"run.folder={tmp_path / 'run'}", "schedule.iterations=2")
        with (tmp_path / "log").open("ab") as file:
            tasks.append(subprocess.Popen(arguments, stderr=file, env={**environment(), **step}))
    assert [task.wait(timeout=120) for task in tasks] == [0, 0], (tmp_path / "log").read_text()
    assert "on 2 x cpu" in (tmp_path / "log").read_text()


def test_a_run_is_not_written_over(tmp_path, own):
    arguments = ["FCOS_shapes_tiny", *own, f"run.folder={tmp_path}", "schedule.iterations=1"]
    assert cli.run(["train", *arguments]) == 0
    with pytest.raises(FileExistsError, match=r"holds a run: continue it with --resume"):
        cli.run(["train", *arguments])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("solver.bacth=4", "bacth"),
        (
            "data.train=nothing.json",
            "neither a dataset's file or folder nor one of coco_2017_train",
        ),
        ("init.checkpoint=FCOS_R_50_1", "did you mean FCOS_R_50_1x"),
        ("init.checkpoint=runs/best.pht", "runs/best.pht is neither a file, nor an address"),
        ("solver.batch=0", "solver.batch=0 should be greater than or equal to 1"),
        ("solver.batch=many", 'solver.batch="many" should be a valid integer'),
        ("solver.precision=fp8", "should be 'fp32', 'tf32', 'bf16' or 'fp16'"),
        ("solver.on_nonfinite=ignore", "should be 'stop' or 'skip'"),
        ("run.log_every=0", "should be greater than or equal to 1"),
        ("solver.accumulate=3", "4 images of a process cannot be split into 3 equal micro-batches"),
    ],
)
def test_a_mistake_is_one_clear_line(tmp_path, own, argument, message):
    with pytest.raises((ValueError, LookupError, FileNotFoundError), match=message):
        cli.run(["train", "FCOS_shapes_tiny", *own, f"run.folder={tmp_path}", argument])


TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


def test_a_worker_that_dies_is_replaced(tmp_path, own):
    """An elastic restart goes on from the newest checkpoint, with the arguments of the start."""
    launch = [*TORCHRUN, "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    agent = start([*launch, *command(*own, f"run.folder={tmp_path}")[1:]], tmp_path / "log")
    wait_for_iteration(tmp_path, 3, agent, tmp_path / "log")
    os.kill(child_of(agent.pid), signal.SIGKILL)
    assert_finished([agent], tmp_path)


def test_two_nodes_and_a_worker_that_dies(tmp_path, own, monkeypatch):
    """torchrun on two machines, both this one, of which one loses its process."""
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        at = f"--rdzv-endpoint=localhost:{free.getsockname()[1]}"
    nodes = []
    for host in (1, 0):
        launch = [*TORCHRUN, "--nnodes=2", "--nproc-per-node=1", "--max-restarts=2", at]
        launch += ["--rdzv-backend=c10d", f"--rdzv-conf=is_host={host}"]
        train = command(*own, f"run.folder={tmp_path}")[1:]
        nodes.append(start([*launch, *train], tmp_path / "log"))
    wait_for_iteration(tmp_path, 3, nodes[0], tmp_path / "log")
    os.kill(child_of(nodes[0].pid), signal.SIGKILL)
    assert_finished(nodes, tmp_path)


def assert_finished(agents, run):
    """The run went on from a checkpoint and came to its end, without a gap in its records."""
    log = (run / "log").read_text
    for agent in agents:
        assert agent.wait(timeout=120) == 0, log()
    assert [record["iteration"] for record in read(run / "metrics.jsonl")] == [*range(1, 9)]
    starts = re.findall(r"on 2 x cpu, from iteration (\d)", log())
    assert starts[0] == "0"
    assert starts[-1] in ("2", "4", "6", "8")


def child_of(parent):
    """The process that a launcher started."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return int(children[0])


def test_the_configuration_is_kept(tmp_path, own):
    cli.run(["train", "FCOS_shapes_tiny", *own, f"run.folder={tmp_path}", "schedule.iterations=1"])
    kept = (tmp_path / "config.yaml").read_text()
    assert "batch: 4" in kept
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["iteration"] == 1
