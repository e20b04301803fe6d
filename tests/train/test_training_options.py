"""Options change speed, memory or precision, and what is learnt by no more than rounding."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from tiny_detector import make_detector, square_batch

import zoo
from fcos import Head
from fcos.train import memory
from fcos.train.memory import checkpoint_activations


def gradients(detector, seed=0):
    images, targets = square_batch(2, seed)
    losses = detector(images, targets)
    torch.stack(list(losses.values())).sum().backward()
    return {name: p.grad for name, p in detector.named_parameters()}


@pytest.mark.parametrize("head_norm", ["bn", "gn"])
def test_activation_checkpointing_changes_nothing_but_memory(head_norm):
    plain, sparing = (make_detector(head_norm=head_norm) for _ in range(2))
    checkpoint_activations(sparing)
    expected = gradients(plain)
    found = gradients(sparing)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name])
    for name, value in sparing.state_dict().items():  # statistics are taken once
        torch.testing.assert_close(value, plain.state_dict()[name])


@pytest.mark.parametrize("entry", ["FCOS_HRNet_W18_5l_2x", "FCOS_RT_MS_DLA_34_4x"])
def test_recomputing_runs_each_convolution_twice_at_most(entry):
    backbone = zoo.build(entry).train().backbone
    checkpoint_activations(SimpleNamespace(backbone=backbone, head=zoo.build(entry).head))
    runs = Counter()
    convolutions = [m for m in backbone.modules() if isinstance(m, torch.nn.Conv2d)]
    for module in convolutions:
        original = module._conv_forward

        def counted(*args, original=original, module=module):
            runs[module] += 1
            return original(*args)

        module._conv_forward = counted
    sum(feature.sum() for feature in backbone(torch.rand(2, 3, 64, 64))).backward()
    assert max(runs.values()) == 2
    assert sum(count == 2 for count in runs.values()) > len(convolutions) / 2


@pytest.mark.parametrize("box", ["relu", "exp"])
@pytest.mark.parametrize("scales", [True, False])
def test_under_autocast_boxes_are_in_fp32(box, scales):
    head = Head((8, 16), 3, 32, tower_depth=1, norm="gn", box=box, box_scales=scales)
    features = [torch.rand(1, 32, 8, 8), torch.rand(1, 32, 4, 4)]
    with torch.autocast("cpu", torch.bfloat16):
        levels = head([feature.bfloat16() for feature in features])
    assert {level.ltrb.dtype for level in levels} == {torch.float32}
    source = torch.nn.functional.relu(torch.randn(1, 32, 8, 8)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head.box_pred(source), head.box_pred.float()(source.float()))


def test_bf16_follows_fp32(make_trainer):
    curves = {}
    for precision in ("fp32", "bf16"):
        trainer = make_trainer(make_detector(), precision, iterations=10, precision=precision)
        batches = iter(trainer.batches(0))
        curves[precision] = [float(trainer.step(*next(batches))["loss"]) for _ in range(10)]
    assert curves["bf16"] == pytest.approx(curves["fp32"], rel=0.02)
    assert curves["bf16"] != curves["fp32"]


def test_the_average_lags_behind(make_trainer):
    trainer = make_trainer(make_detector(), ema=0.5, iterations=3)
    batches = iter(trainer.batches(0))
    seen = []
    for _ in range(2):
        trainer.step(*next(batches))
        seen.append(trainer.detector.backbone.stages[0][0].conv.weight.detach().clone())
    averaged = trainer.eval_model.backbone.stages[0][0].conv.weight
    torch.testing.assert_close(averaged, (seen[0] + seen[1]) / 2)


@pytest.fixture
def gpu(monkeypatch):
    """A detector that seems to be on a GPU with room for a number of images."""

    def make(room):
        monkeypatch.setattr(memory, "_fits", lambda detector, images, *_: images <= room)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
        mean = SimpleNamespace(device=torch.device("cuda"))
        return SimpleNamespace(normalizer=SimpleNamespace(mean=mean), modules=lambda: [])

    return make


@pytest.mark.parametrize(("room", "number"), [(100, 1), (16, 1), (15, 2), (5, 4), (1, 16)])
def test_a_step_has_as_few_micro_batches_as_fit(gpu, room, number):
    assert memory.fitting_accumulation(gpu(room), num_images=16, size=(800, 1333)) == number


def test_portrait_and_landscape_images_of_a_micro_batch_are_padded_to_squares(gpu, monkeypatch):
    detector, tried = gpu(0), []
    monkeypatch.setattr(
        memory, "_fits", lambda _, images, size, *rest: tried.append((images, size))
    )
    with pytest.raises(
        RuntimeError, match=r"one image of 1333x800 .* solver\.activation_checkpointing=true"
    ):
        memory.fitting_accumulation(detector, num_images=4, size=(800, 1333), group=2)
    assert tried == [(4, (1333, 1333)), (2, (800, 1333)), (1, (800, 1333))]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_BAD_PARAM"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_libraries_report_lack_of_memory_in_their_own_ways(error, expected):
    assert memory.is_out_of_memory(error) == expected
