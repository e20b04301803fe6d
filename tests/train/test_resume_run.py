"""A run that is stopped and resumed is the run that was never stopped, bit for bit."""

import random
import resource
import signal
import zipfile

import pytest
import torch
from tiny_detector import make_detector

from fcos.data.transforms import HorizontalFlip
from fcos.train.checkpoint import Checkpoints, claim, load
from fcos.train.metrics import Log, read

# Everything that has a state of its own.
STATEFUL = {
    "ema": 0.9,
    "clip_norm": 1.0,
    "accumulate": 2,
    "transforms": HorizontalFlip(),
    "checkpoint_every": 1,
    "keep": 10,
}


def assert_same(state, other):
    assert state.keys() == other.keys()
    for key, value in state.items():
        assert torch.equal(value, other[key]), key


@pytest.mark.parametrize("stopped_after", [1, 3, 5])
def test_a_run_resumed_from_any_checkpoint_is_the_same(make_trainer, stopped_after):
    whole = make_trainer(make_detector(normalizer="moving"), "whole", **STATEFUL)
    whole.run()
    stopped = make_trainer(make_detector(normalizer="moving"), "stopped", **STATEFUL)
    step, taken = stopped.step, []

    def die(*args):
        if len(taken) == stopped_after:
            raise KeyboardInterrupt
        taken.append(0)
        return step(*args)

    stopped.step = die
    with pytest.raises(KeyboardInterrupt):
        stopped.run()

    random.seed(99)  # another process has other generators
    torch.manual_seed(99)
    resumed = make_trainer(make_detector(normalizer="moving", seed=7), "stopped", **STATEFUL)
    assert resumed.resume()
    assert resumed.iteration == stopped_after
    resumed.run()
    assert_same(resumed.detector.state_dict(), whole.detector.state_dict())
    assert_same(resumed.eval_model.state_dict(), whole.eval_model.state_dict())
    ours, theirs = (read(run.folder / "metrics.jsonl") for run in (resumed, whole))
    assert [r["loss"] for r in ours] == [r["loss"] for r in theirs]
    assert [r["iteration"] for r in ours] == [1, 2, 3, 4, 5, 6]


def test_a_run_is_not_resumed_to_fewer_iterations(make_trainer):
    make_trainer(iterations=4).run()
    with pytest.raises(ValueError, match=r"later iteration than schedule\.iterations=2: raise"):
        make_trainer(iterations=2).resume()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"batch": 8}, r"same solver\.batch"),
        ({"ema": 0.9}, r"solver\.ema"),
        ({"classes": ("circle", "triangle", "square")}, "the class 'square' where .* 'triangle'"),
        ({"classes": ("circle", "square")}, "was trained on 3 classes, not on 2"),
        ({"settings": {"loss": {"box": "iou"}}}, r"was trained with loss\.box=giou, not iou"),
        ({"name": "large"}, r"iteration_0000002\.pth is of tiny, not of large"),
        ({"fingerprint": "other"}, "another state of the dataset"),
    ],
)
def test_another_run_is_not_resumed(make_trainer, changed, message):
    options = {"iterations": 2, "fingerprint": "this"}
    settings = {"loss": {"box": "giou"}, "solver": {"base_lr": 0.1}}
    make_trainer(settings=settings, **options).run()
    rate_changed = {**settings, "solver": {"base_lr": 0.2}}
    with pytest.warns(match=r"resumed with other settings: solver\.base_lr=0\.2, before 0\.1$"):
        assert make_trainer(settings=rate_changed, **options).resume()
    classes = changed.pop("classes", ("circle", "square", "triangle"))
    other = make_trainer(
        make_detector(classes=classes), **{"settings": settings, **options, **changed}
    )
    with pytest.raises(ValueError, match=message):
        other.resume()


def test_the_last_weights_are_written_before_they_are_measured(make_trainer):
    def fail(detector):
        raise OSError("the disk of the test set is gone")

    trainer = make_trainer(iterations=2, evaluate=fail, evaluate_every=5)
    with pytest.raises(OSError, match="gone"):
        trainer.run()
    content = torch.load(trainer.folder / "tiny.pth", weights_only=True)
    assert content["entry"] == "tiny"
    assert tuple(content["classes"]) == trainer.detector.classes
    assert_same(content["model"], trainer.detector.state_dict())


def test_a_folder_has_one_run_at_a_time(tmp_path):
    refused = pytest.raises(FileExistsError, match="another process is training in")
    with claim(tmp_path), refused, claim(tmp_path):
        pass
    with claim(tmp_path):
        pass


def test_a_resumed_run_uses_its_new_rates_and_decays(make_trainer):
    make_trainer(lr=0.02).run()
    resumed = make_trainer(lr=0.005, fused=True, iterations=8)
    assert resumed.resume()
    resumed.run()
    assert {group["fused"] for group in resumed.optimizer.param_groups} == {True}
    assert {group["base_lr"] for group in resumed.optimizer.param_groups} == {0.005}
    rates = [record["rate"] for record in read(resumed.folder / "metrics.jsonl")]
    assert rates == [0.02] * 6 + [0.005] * 2


def test_a_run_that_was_stopped_while_evaluating_evaluates(make_trainer):
    def killed(detector):
        raise KeyboardInterrupt

    options = {"iterations": 4, "evaluate_every": 2}
    with pytest.raises(KeyboardInterrupt):
        make_trainer(evaluate=killed, **options).run()
    seen = []

    def evaluate(detector):
        seen.append(resumed.iteration)
        return {"AP": 0.5}

    for _ in range(2):  # the second time all is known already
        resumed = make_trainer(evaluate=evaluate, **options)
        assert resumed.resume()
        resumed.run()
        assert seen == [2, 4]


def test_the_newest_checkpoints_are_kept_and_a_damaged_one_displaces_none(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)

    def kept_after(*iterations):
        for iteration in iterations:
            checkpoints.save({"iteration": iteration}, iteration)
        return [path.name for path in checkpoints.paths()]

    assert kept_after(5, 20, 1000) == ["iteration_0001000.pth", "iteration_0000020.pth"]
    checkpoints.paths()[0].write_bytes(b"damaged")
    # The run was resumed from before and came this far.
    assert kept_after(30) == ["iteration_0000030.pth", "iteration_0000020.pth"]


def test_a_checkpoint_that_does_not_fit_on_the_disk_never_gets_its_name(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"iteration": 1}, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:
        with pytest.raises(OSError, match=r"iteration_0000002.pth could not be written, \d+ MiB"):
            checkpoints.save({"iteration": 2, "weights": torch.zeros(1 << 18)}, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in tmp_path.iterdir()] == ["iteration_0000001.pth"]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_checkpoint_is_left_out(tmp_path, damage):
    checkpoints = Checkpoints(tmp_path)
    for iteration in (1, 2):
        path = checkpoints.save({"x": torch.arange(5000.0), "iteration": iteration}, iteration)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        (largest,) = (i for i in archive.infolist() if i.file_size > 10000)
    if damage == "flipped":
        content[largest.header_offset + 9000] ^= 1
    path.write_bytes({"truncated": content[: len(content) // 2], "empty": b""}.get(damage, content))
    with pytest.warns(UserWarning, match=r"0002\.pth is damaged: an older checkpoint is loaded"):
        newest = checkpoints.newest()
    assert load(newest)["iteration"] == 1
    newest.write_bytes(b"")
    with pytest.raises(ValueError, match=r"every checkpoint .* is damaged"):
        checkpoints.newest()


def test_a_file_of_something_else_is_named_and_left_out(make_trainer):
    trainer = make_trainer()
    trainer.run()
    torch.save({"model": {}}, trainer.checkpoints.folder / "iteration_0000009.pth")
    other = make_trainer()
    with pytest.warns(UserWarning, match=r"9\.pth is not a checkpoint of training: an older"):
        assert other.resume()
    assert other.iteration == 6


def test_a_checkpoint_missing_on_one_machine_names_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"choose a run\.folder that all machines share"):
        load(tmp_path / "iteration_0000001.pth")


def test_records_after_the_checkpoint_are_dropped(tmp_path):
    log = Log(tmp_path)
    for iteration in (1, 2, 3):
        log.write({"iteration": iteration, "AP": 0.5})
    with log.path.open("a") as file:
        file.write('{"iteration": 4, "lo')  # killed while writing
    Log(tmp_path, iteration=2).write({"iteration": 3, "AP": 0.6})
    records = [(record["iteration"], record["AP"]) for record in read(log.path)]
    assert records == [(1, 0.5), (2, 0.5), (3, 0.6)]


def test_a_damaged_record_hides_no_other(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"iteration": 1}\n{"iterat\xff\n[3]\nnull\n{"iteration": 4}\n{"itera')
    assert read(path) == [{"iteration": 1}, {"iteration": 4}]


def test_the_progress_of_a_long_run_fits_a_narrow_terminal(tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as in a terminal
    monkeypatch.setenv("COLUMNS", "80")
    log = Log(tmp_path, total=90000)
    losses = {"loss_cls": 1.0, "loss_box": 1.0, "loss_quality": 0.5, "loss": 2.5}
    speed = {"images_per_second": 123.4, "waiting_for_data": 0.1, "memory_mib": 9000}
    log.write({"iteration": 1, "rate": 1e-4, **losses, **speed})
    with log.console.capture() as printed:
        log.console.print(log.bar.get_renderable())
    assert "loss 2.5000  123.4 images/s" in printed.get()
    assert "…" not in printed.get()
