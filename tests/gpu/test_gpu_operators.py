"""Single operators on the card against the CPU, and against PyTorch's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from backbones.deformable import DeformConv2d
from fcos.head import GroupNorm
from fcos.preprocess import resize_as_pillow, resize_image

SYNC_SCRIPT = Path(__file__).with_name("sync_batch_norm.py")


@pytest.mark.parametrize("learning", [False, True])
def test_deformable_convolution_equals_the_cpu_s(device: torch.device, learning: bool) -> None:
    torch.manual_seed(0)
    conv = DeformConv2d(16, 24, 3, padding=1)
    nn.init.normal_(conv.offset.weight, std=0.5)
    x = torch.randn(2, 16, 20, 30)
    gradients = {}
    outputs = {}
    for where in ("cpu", device):
        module = conv.to(where)
        module.zero_grad(set_to_none=True)
        with torch.set_grad_enabled(learning):
            outputs[str(where)] = module(x.to(where))
        if learning:
            outputs[str(where)].square().mean().backward()
            gradients[str(where)] = [p.grad.cpu().clone() for p in module.parameters()]
    torch.testing.assert_close(outputs[str(device)].cpu(), outputs["cpu"], rtol=1e-4, atol=1e-4)
    for ours, expected in zip(
        gradients.get(str(device), []), gradients.get("cpu", []), strict=True
    ):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("size", [(800, 1066), (160, 213)])
def test_images_are_resized_bit_for_bit_as_by_pillow(
    device: torch.device, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    image = torch.randint(0, 256, (3, 480, 640), dtype=torch.uint8)
    resized = resize_as_pillow(image.to(device), size)
    assert torch.equal(resized.cpu(), resize_image(image, size))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_group_norm_in_half_precision_follows_float32(
    device: torch.device, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    norm = GroupNorm(32, 256).to(device)
    nn.init.normal_(norm.weight, mean=1.0, std=0.1)
    x = torch.randn(2, 256, 25, 40, device=device).to(memory_format=layout)
    half = norm(x.to(dtype))
    assert half.dtype == dtype
    torch.testing.assert_close(half.float(), norm(x), rtol=2e-2, atol=2e-2)


def test_sync_batch_norm_of_two_processes_equals_batch_norm_of_all_images(
    device: torch.device, tmp_path: Path
) -> None:
    """Two processes share the card through gloo, since NCCL wants a card for each."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*command, str(SYNC_SCRIPT), str(device), str(tmp_path / "result.pth")],
        check=True,
        env=environment,
        timeout=600,
    )
    result = torch.load(tmp_path / "result.pth")
    for name, expected in result["expected"].items():
        torch.testing.assert_close(result["ours"][name], expected, rtol=1e-3, atol=1e-4, msg=name)
