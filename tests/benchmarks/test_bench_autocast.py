"""Predicted tensors have the types that CUDA's autocast gives them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

import zoo
from benchmarks.prediction import CudaAutocast, predict_training_step

Types = dict[str, list[torch.dtype]]


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


def test_bf16_needs_less_memory_than_fp32() -> None:
    fp32, bf16 = (
        predict_training_step("FCOS_R_50_1x", (192, 256), precision=precision)["predicted_gb"]
        for precision in ("fp32", "bf16")
    )
    assert bf16 < fp32
