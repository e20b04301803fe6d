"""What the loop does: learns, logs, evaluates, refuses what is not finite, stops when asked."""

import json
import math
import os
import signal
import subprocess
import sys

import pytest
import torch

import fcos.train.metrics as metrics
from fcos.data.transforms import HorizontalFlip
from fcos.evaluate import evaluate_detector
from fcos.train.metrics import read
from fcos.train.trainer import NonFiniteLossError


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_eight_images_are_learnt_by_heart(make_trainer, make_detector, dataset, shapes):
    detector = make_detector()
    trainer = make_trainer(
        detector,
        iterations=600,
        batch=8,
        lr=0.05,
        evaluate=lambda d: evaluate_detector(d, dataset, shapes, workers=0),
        evaluate_every=300,
        checkpoint_every=1000,
    )
    assert trainer.run() == 0
    losses = [record["loss"] for record in records(trainer.folder) if "loss" in record]
    assert losses[-1] < losses[0] / 2
    learnt = {r["iteration"]: r["AP"] for r in read(trainer.folder / "metrics.jsonl") if "AP" in r}
    assert [*learnt] == [300, 600]
    assert learnt[600] > 0.6
    best = torch.load(trainer.folder / "best.pth", weights_only=True)["model"]
    final = torch.load(trainer.folder / "tiny.pth", weights_only=True)["model"]
    same = all(torch.equal(value, final[key]) for key, value in best.items())
    assert same == (learnt[600] > learnt[300])


def test_the_record_of_a_step(make_trainer, make_detector):
    trainer = make_trainer(make_detector(), iterations=1)
    trainer.run()
    (record,) = records(trainer.folder)
    assert record["iteration"] == 1
    assert record["epoch"] == 0.5
    assert record["images"] == 4
    parts = record["loss_cls"] + record["loss_box"] + record["loss_quality"]
    assert record["loss"] == pytest.approx(parts)
    assert record["grad_norm"] > 0


def test_the_gradient_is_clipped(make_trainer, make_detector):
    detector = make_detector()
    trainer = make_trainer(detector, clip_norm=0.5)
    before = [p.detach().clone() for p in detector.parameters()]
    images, targets = next(iter(trainer.batches(0)))
    losses = trainer.step(images, targets)
    moved = [p.detach() - b for p, b in zip(detector.parameters(), before, strict=True)]
    update = torch.cat([m.flatten() for m in moved]).norm()
    assert losses["grad_norm"] > 0.5
    assert update == pytest.approx(0.02 * 0.5, rel=0.05)  # weight decay is the rest


def spoilt(trainer, at):
    """The trainer, whose network gets such values at some steps that losses are NaN."""
    original, factor = trainer.batches, 1.0

    def batches(start):
        nonlocal factor
        for number, batch in enumerate(original(start), start):
            factor = math.nan if number in at else 1.0
            yield batch

    trainer.batches = batches
    trainer.detector.backbone.register_forward_pre_hook(lambda _, inputs: (inputs[0] * factor,))
    return trainer


def test_a_loss_that_is_not_finite_stops_with_the_images_names(make_trainer, make_detector):
    trainer = spoilt(make_trainer(make_detector()), at=[2])
    before = {}
    step = trainer.step

    def remember(*args):
        before.update({k: v.clone() for k, v in trainer.detector.named_parameters()})
        return step(*args)

    trainer.step = remember
    with pytest.raises(NonFiniteLossError, match=r"iteration 2: the loss is not finite.*\.jpg"):
        trainer.run()
    for name, parameter in trainer.detector.named_parameters():
        assert torch.equal(parameter, before[name])


def test_a_loss_that_is_not_finite_is_skipped_and_counted(make_trainer, make_detector):
    detector = make_detector(normalizer="moving")
    trainer = spoilt(make_trainer(detector, on_nonfinite="skip"), at=[2, 3])
    assert trainer.run() == 0
    assert records(trainer.folder)[-1]["skipped_steps"] == 2
    assert all(bool(torch.isfinite(value).all()) for value in detector.state_dict().values())


def test_losses_are_read_only_when_they_are_logged(make_trainer, make_detector, monkeypatch):
    reads = []
    read = metrics.Meter.read
    monkeypatch.setattr(metrics.Meter, "read", lambda meter: reads.append(0) or read(meter))
    trainer = make_trainer(make_detector(), iterations=7, log_every=3, checkpoint_every=100)
    trainer.run()
    assert len(reads) == 4  # after 1, 3, 6 and the last of 7 iterations
    assert [record["images"] for record in records(trainer.folder)] == [4, 8, 12, 4]


@pytest.mark.parametrize("fused", [False, True])
def test_the_faulty_step_is_named_even_if_detected_later(make_trainer, make_detector, fused):
    detector = make_detector()
    options = {"log_every": 5, "checkpoint_every": 5, "fused": fused}
    trainer = spoilt(make_trainer(detector, iterations=10, **options), at=[1])
    with pytest.raises(NonFiniteLossError, match="iteration 1: the loss is not finite"):
        trainer.run()
    assert trainer.iteration == 5
    assert not trainer.checkpoints.paths()  # nothing was saved after it
    assert all(bool(p.isfinite().all()) for p in detector.parameters())


@pytest.mark.parametrize("fused", [False, True])
def test_a_skipped_step_leaves_no_trace(make_trainer, make_detector, fused):
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
def test_fp16_goes_on_after_a_skipped_step(make_trainer, make_detector, fused):
    trainer = make_trainer(make_detector(), on_nonfinite="skip", precision="fp16", fused=fused)
    scale = trainer.scaler.get_scale()
    assert spoilt(trainer, at=[2]).run() == 0
    assert records(trainer.folder)[-1]["skipped_steps"] == 1
    assert trainer.scaler.get_scale() < scale


def test_nothing_but_losses_that_are_not_finite_stops(make_trainer, make_detector):
    trainer = spoilt(
        make_trainer(make_detector(), iterations=50, on_nonfinite="skip"), at=range(50)
    )
    with pytest.raises(NonFiniteLossError):
        trainer.run()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_a_signal_saves_and_leaves(make_trainer, make_detector, name):
    number = getattr(signal, name)
    trainer = make_trainer(make_detector(), checkpoint_every=1000)
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


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_second_signal_ends_a_hanging_run(name):
    """Once it is later than a launcher would repeat it."""
    script = """if True:
        import os, signal
        from fcos.train import console
        console.REPEATED_WITHIN = 0
        with console.StopSignals():
            os.kill(os.getpid(), signal.{0})
            print("noted", flush=True)
            os.kill(os.getpid(), signal.{0})
            print("never", flush=True)
    """
    run = subprocess.run(
        [sys.executable, "-c", script.format(name)], capture_output=True, text=True, check=False
    )
    assert run.stdout == "noted\n"
    assert run.returncode == -getattr(signal, name)
    assert f"{name}: saving and stopping; send it again" in run.stderr


def test_a_checkpoint_is_saved_before_the_evaluation(make_trainer, make_detector):
    saved = []

    def evaluate(detector):
        saved.append([path.name for path in trainer.checkpoints.paths()])
        return {"AP": 0.5}

    trainer = make_trainer(
        make_detector(), iterations=4, checkpoint_every=100, evaluate=evaluate, evaluate_every=2
    )
    trainer.run()
    assert [names[0] for names in saved] == ["iteration_0000002.pth", "iteration_0000004.pth"]


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError(), RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")]
)
def test_out_of_memory_says_what_to_lower(make_trainer, make_detector, monkeypatch, error):
    trainer = make_trainer(make_detector())

    def forward(*_):
        raise error

    monkeypatch.setattr(trainer.detector, "forward", forward)
    with pytest.raises(RuntimeError, match=r"4 images at a time .*raise solver.accumulate"):
        trainer.run()


def test_loggers_get_every_scalar(make_trainer, make_detector, monkeypatch):
    seen = []
    monkeypatch.setitem(metrics.LOGGERS, "wandb", lambda *_: seen.append)
    make_trainer(make_detector(), iterations=3, loggers=["wandb"]).run()
    assert [record["iteration"] for record in seen] == [1, 2, 3]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_networks_may_compute_in_less_than_fp32(make_trainer, make_detector, precision):
    detector = make_detector()
    trainer = make_trainer(detector, precision=precision, transforms=HorizontalFlip())
    dtypes = set()
    detector.backbone.register_forward_hook(lambda *a: dtypes.add(a[-1][0].dtype))
    detector.loss.register_forward_pre_hook(
        lambda _, args: dtypes.update({level.ltrb.dtype for level in args[0]})
    )
    images, targets = next(iter(trainer.batches(0)))
    trainer.step(images, targets)
    compute = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    assert dtypes == {compute, torch.float32}
    assert {p.dtype for p in detector.parameters()} == {torch.float32}
