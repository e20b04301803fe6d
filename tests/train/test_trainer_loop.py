"""What the loop does: learns, logs, evaluates, refuses what is not finite, stops when asked."""

import math
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from tiny_detector import make_detector

from fcos.evaluate import evaluate_detector
from fcos.train.metrics import Meter, read
from fcos.train.trainer import NonFiniteLossError


def records(trainer):
    return read(trainer.folder / "metrics.jsonl")


def test_eight_images_are_learnt_by_heart(make_trainer, dataset, shapes):
    trainer = make_trainer(
        iterations=200,
        batch=8,
        lr=0.1,
        evaluate=lambda d: evaluate_detector(d, dataset, shapes, workers=0),
        evaluate_every=100,
        checkpoint_every=1000,
    )
    assert trainer.run() == 0
    losses = [record["loss"] for record in records(trainer) if "loss" in record]
    assert losses[-1] < losses[0] / 2
    learnt = {record["iteration"]: record["AP"] for record in records(trainer) if "AP" in record}
    assert [*learnt] == [100, 200]
    assert learnt[200] > 0.5
    best = torch.load(trainer.folder / "best.pth", weights_only=True)["model"]
    final = torch.load(trainer.folder / "tiny.pth", weights_only=True)["model"]
    same = all(torch.equal(value, final[key]) for key, value in best.items())
    assert same == (learnt[200] > learnt[100])


def test_the_record_of_a_step(make_trainer):
    trainer = make_trainer(iterations=1)
    trainer.run()
    (record,) = records(trainer)
    assert (record["iteration"], record["epoch"], record["images"]) == (1, 0.5, 4)
    parts = record["loss_cls"] + record["loss_box"] + record["loss_quality"]
    assert record["loss"] == pytest.approx(parts)
    assert record["grad_norm"] > 0


def test_the_gradient_is_clipped(make_trainer):
    trainer = make_trainer(clip_norm=0.5)
    before = [p.detach().clone() for p in trainer.detector.parameters()]
    losses = trainer.step(*next(iter(trainer.batches(0))))
    after = trainer.detector.parameters()
    moved = [p.detach() - b for p, b in zip(after, before, strict=True)]
    update = torch.cat([m.flatten() for m in moved]).norm()
    assert losses["grad_norm"] > 0.5
    assert update == pytest.approx(0.02 * 0.5, rel=0.05)  # weight decay is the rest


def spoilt(trainer, at):
    """The trainer, with a network whose losses are NaN at the given steps."""
    original, factor = trainer.batches, 1.0

    def batches(start):
        nonlocal factor
        for number, batch in enumerate(original(start), start):
            factor = math.nan if number in at else 1.0
            yield batch

    trainer.batches = batches
    trainer.detector.backbone.register_forward_pre_hook(lambda _, inputs: (inputs[0] * factor,))
    return trainer


def test_losses_are_read_only_when_they_are_logged(make_trainer, monkeypatch):
    reads, read_losses = [], Meter.read
    monkeypatch.setattr(Meter, "read", lambda meter: reads.append(0) or read_losses(meter))
    trainer = make_trainer(iterations=7, log_every=3, checkpoint_every=100)
    trainer.run()
    assert len(reads) == 4  # after 1, 3, 6 and the last of 7 iterations
    assert [record["images"] for record in records(trainer)] == [4, 8, 12, 4]


@pytest.mark.parametrize("fused", [False, True])
def test_a_loss_that_is_not_finite_stops_with_the_step_and_its_images(make_trainer, fused):
    """Also if it is detected some steps later."""
    options = {"log_every": 5, "checkpoint_every": 5, "fused": fused}
    trainer = spoilt(make_trainer(iterations=10, **options), at=[1])
    with pytest.raises(NonFiniteLossError, match=r"iteration 1: the loss is not finite.*\.jpg"):
        trainer.run()
    assert trainer.iteration == 5
    assert not trainer.checkpoints.paths()  # nothing was saved after it
    assert all(bool(p.isfinite().all()) for p in trainer.detector.parameters())


@pytest.mark.parametrize("fused", [False, True])
def test_a_skipped_step_leaves_no_trace(make_trainer, fused):
    detector = make_detector(normalizer="moving")
    options = {"on_nonfinite": "skip", "iterations": 1, "fused": fused}
    trainer = spoilt(make_trainer(detector, **options), at=[0])
    before = {name: b.clone() for name, b in detector.named_buffers()}
    before |= {name: p.detach().clone() for name, p in detector.named_parameters()}
    trainer.run()
    assert trainer.skipped == 1
    for name, tensor in [*detector.named_buffers(), *detector.named_parameters()]:
        assert torch.equal(tensor, before[name]), name
    assert not any(state["momentum_buffer"].any() for state in trainer.optimizer.state.values())


@pytest.mark.parametrize("fused", [False, True])
def test_fp16_goes_on_after_a_skipped_step(make_trainer, fused):
    trainer = make_trainer(on_nonfinite="skip", precision="fp16", fused=fused)
    scale = trainer.scaler.get_scale()
    assert spoilt(trainer, at=[2]).run() == 0
    assert records(trainer)[-1]["skipped_steps"] == 1
    assert trainer.scaler.get_scale() < scale


def test_steps_by_which_fp16_finds_its_scale_are_counted(make_trainer):
    """They are part of its search, and end no run."""
    trainer = make_trainer(precision="fp16")
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-60)
    assert trainer.run() == 0
    assert [record["skipped_steps"] for record in records(trainer)][-1] == 2


def test_nothing_but_losses_that_are_not_finite_stops(make_trainer):
    trainer = spoilt(make_trainer(iterations=50, on_nonfinite="skip"), at=range(50))
    with pytest.raises(NonFiniteLossError):
        trainer.run()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_a_signal_saves_and_leaves(make_trainer, name):
    number = getattr(signal, name)
    trainer = make_trainer(checkpoint_every=1000)
    original = trainer.batches

    def batches(start):
        for step, batch in enumerate(original(start), start):
            if step == 2:
                os.kill(os.getpid(), number)
                os.kill(os.getpid(), number)  # launchers repeat themselves
            yield batch

    handler = signal.getsignal(number)
    trainer.batches = batches
    assert trainer.run() == number
    assert [path.name for path in trainer.checkpoints.paths()] == ["iteration_0000003.pth"]
    assert signal.getsignal(number) is handler


def test_a_second_signal_ends_a_hanging_run():
    """Once it is later than a launcher would repeat it."""
    script = """if True:
        import os, signal
        from fcos.train import distributed
        distributed.REPEATED_WITHIN = 0
        with distributed.StopSignals():
            os.kill(os.getpid(), signal.SIGINT)
            print("noted", flush=True)
            os.kill(os.getpid(), signal.SIGINT)
            print("never", flush=True)
    """
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.stdout == "noted\n"
    assert run.returncode == -signal.SIGINT
    assert "SIGINT: saving and stopping; send it again" in run.stderr


def test_a_checkpoint_is_saved_before_the_evaluation(make_trainer):
    saved = []

    def evaluate(detector):
        saved.append(trainer.checkpoints.paths()[0].name)
        return {"AP": 0.5}

    options = {"iterations": 4, "checkpoint_every": 100, "evaluate_every": 2}
    trainer = make_trainer(evaluate=evaluate, **options)
    trainer.run()
    assert saved == ["iteration_0000002.pth", "iteration_0000004.pth"]


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError(), RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")]
)
def test_an_out_of_memory_error_names_the_settings_to_change(make_trainer, monkeypatch, error):
    trainer = make_trainer()

    def forward(*_):
        raise error

    monkeypatch.setattr(trainer.detector, "forward", forward)
    with pytest.raises(RuntimeError, match=r"4 images at a time .*raise solver.accumulate"):
        trainer.run()


def test_metrics_reach_the_loggers(make_trainer, monkeypatch):
    sent = []
    run = SimpleNamespace(log=lambda values, step: sent.append(("wandb", step, values.get("AP"))))
    mlflow = SimpleNamespace(
        set_experiment=lambda name: None,
        start_run=lambda run_name: None,
        log_dict=lambda config, name: None,
        log_metrics=lambda values, step: sent.append(("mlflow", step, values.get("AP"))),
    )
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **_: run))
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    figures = {"AP": 0.5, "per_class": {"cat": 0.5}}
    options = {"iterations": 2, "evaluate_every": 2, "evaluate": lambda detector: figures}
    make_trainer(loggers=["wandb", "mlflow"], log_every=100, **options).run()
    assert sent[-2:] == [("wandb", 2, 0.5), ("mlflow", 2, 0.5)]
