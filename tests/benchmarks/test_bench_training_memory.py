"""The memory of training, predicted on tensors without data."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

import zoo
from benchmarks import training_memory
from benchmarks.training_memory import (
    BLOCK,
    IMAGES_PER_GPU,
    CudaAutocast,
    MemoryTracker,
    measure_step,
    predict_step,
    sgd,
    training_batch,
)

ENTRY = "FCOS_syncbn_bs32_c128_MNV2_FPN_1x"
Types = dict[str, list[torch.dtype]]


def test_a_shared_storage_is_counted_once_in_whole_blocks() -> None:
    with MemoryTracker() as tracker:
        x = torch.empty(1024, device="meta")
        view = x.view(32, 32).t()
        assert tracker.now == 4096
        y = x + 1
        assert tracker.now == tracker.peak == 8192
        del x, y
        assert tracker.now == 4096
        del view
        assert tracker.now == 0
        small = torch.empty(1, device="meta")
        assert tracker.now == BLOCK
        del small
    assert tracker.peak == 8192


def test_saved_tensors_count_until_the_backward_pass() -> None:
    weight = torch.empty(256, 256, device="meta", requires_grad=True)
    x = torch.empty(1024, 256, device="meta")
    scalar, activation, gradient = BLOCK, 1024 * 256 * 4, 256 * 256 * 4
    tracker = MemoryTracker()
    tracker.add(weight)
    tracker.add(x)
    before = tracker.now
    with tracker:
        y = (x @ weight).sigmoid().sum()
        assert tracker.now - before == scalar + activation  # the sigmoid's, not the product's
        y.backward()
        assert tracker.now - before == scalar + gradient
    assert tracker.peak - before >= activation + gradient


@pytest.mark.parametrize(("entry", "positives"), [(ENTRY, None), ("FCOS_shapes_tiny", 60)])
def test_the_prediction_agrees_with_the_allocations_that_torchs_profiler_records(
    entry: str, positives: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small network's memory depends on the number of positive locations; all are predicted."""
    size = (192, 256)
    if positives:
        monkeypatch.setattr(
            training_memory, "_all_indices", lambda m: m.new_empty(positives, m.dim()).long()
        )
    predicted = predict_step(entry, size)["predicted_gb"]
    detector = zoo.build(entry).train()
    optimizer = sgd(detector)
    batch = training_batch(len(detector.classes), size, IMAGES_PER_GPU)
    tensors = [*detector.parameters(), *detector.buffers(), batch[0][0]]
    before = sum(tensor.untyped_storage().nbytes() for tensor in tensors)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profiler:
        for _ in range(2):
            losses = detector(*batch)
            torch.stack(list(losses.values())).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            del losses
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    peak = before + max(itertools.accumulate(changes))
    assert predicted == pytest.approx(peak / 2**30, rel=0.02)


@pytest.mark.parametrize(
    "entry",
    [
        *("FCOS_R_50_1x", "FCOS_R_50_1x_iou", "FCOS_R_50_FPN_1x", "FCOS_imprv_R_50_FPN_1x"),
        *("FCOS_R_50_5l_2x", "FCOS_R_50_noctr_2x", "FCOS_MM_R_50_1x", "FCOS_TV_R_50"),
    ],
)
def test_the_losses_of_every_system_can_be_predicted(entry: str) -> None:
    predicted = predict_step(entry, (64, 96))
    assert predicted["predicted_gb"] > predicted["model_gb"] > 0


def test_training_in_bf16_needs_less_memory() -> None:
    fp32, bf16 = (
        predict_step(ENTRY, (192, 256), precision=precision)["predicted_gb"]
        for precision in ("fp32", "bf16")
    )
    assert bf16 < fp32


def output_types(entry: str, device: str) -> Types:
    """The types of every layer's outputs: on fake CUDA tensors, which need no GPU, by torch's own
    rules for CUDA; on fake CPU tensors by ours."""
    types: Types = {}
    with FakeTensorMode(), torch.no_grad():
        with torch.device(device):
            detector = zoo.build(entry).train()
        for name, module in detector.named_modules():
            module.register_forward_hook(
                lambda _, inputs, output, name=name: types.__setitem__(
                    name, [t.dtype for t in tree_leaves(output) if isinstance(t, Tensor)]
                )
            )
        image = torch.empty(1, 3, 64, 96, device=device)
        if device == "cpu":
            with CudaAutocast(torch.bfloat16):
                detector.head(detector.pyramid(detector.backbone(image)))
            return types
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        torch.set_autocast_enabled("cuda", True)
        try:
            detector.head(detector.pyramid(detector.backbone(image)))
        finally:
            torch.set_autocast_enabled("cuda", False)
    return types


@pytest.mark.filterwarnings("ignore:.*CUDA is not available.*")
@pytest.mark.parametrize(
    "entry", ["FCOS_R_50_1x", "FCOS_HRNet_W18_5l_2x", "FCOS_V_39_FPN_1x", "FCOS_R_50_noctr_2x"]
)
def test_every_layer_has_the_type_that_it_has_on_a_gpu(entry: str) -> None:
    types = output_types(entry, "cpu")
    assert torch.bfloat16 in {dtype for outputs in types.values() for dtype in outputs}
    assert types == output_types(entry, "cuda")


def test_parts_of_a_network_can_disable_autocast_and_a_weight_is_cast_once() -> None:
    weight = torch.ones(4, 4, requires_grad=True)
    x = torch.ones(4, 4)
    with CudaAutocast(torch.bfloat16) as mode:
        first = x @ weight
        second = torch.matmul(first, weight)
        assert first.dtype == second.dtype == torch.bfloat16
        assert len(mode._weights) == 1
        assert second.exp().dtype == second.sum().dtype == torch.float32
        with torch.autocast("cpu", enabled=False):
            assert torch.matmul(x, weight).dtype == torch.float32
    assert torch.matmul(x, weight).dtype == torch.float32
    second.float().sum().backward()
    assert weight.grad is not None


def test_training_memory_is_not_measured_without_a_gpu() -> None:
    batch = training_batch(80, (64, 64), 1)
    with pytest.raises(RuntimeError, match="predicted"):
        measure_step(zoo.build(ENTRY), *batch, "cpu")
