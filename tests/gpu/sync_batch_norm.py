"""Run `SyncBatchNorm2d` in two processes and write its results beside those of one batch norm.

Usage: torchrun --nproc-per-node 2 sync_batch_norm.py DEVICE OUTPUT. A test runs it.
"""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from torch import Tensor, nn

from backbones.layers import SyncBatchNorm2d

CHANNELS = 8


def step(norm: nn.Module, x: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """Outputs, gradients and running statistics of a step that minimises `weight * norm(x)`."""
    x = x.clone().requires_grad_()
    output = norm(x)
    (output * weight).sum().backward()
    assert x.grad is not None
    found = {"output": output.detach(), "input gradient": x.grad}
    found |= {f"gradient of {name}": p.grad.detach() for name, p in norm.named_parameters()}
    return found | {name: b.detach().float() for name, b in norm.named_buffers()}


def main() -> None:
    device, path = torch.device(sys.argv[1]), sys.argv[2]
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    x, weight = torch.randn(2, 2 * world, CHANNELS, 10, 12, device=device)
    own = slice(2 * rank, 2 * rank + 2)
    ours = step(SyncBatchNorm2d(CHANNELS).to(device), x[own], weight[own])
    if device.type == "cuda":  # PyTorch's own refuses CPUs
        theirs = step(nn.SyncBatchNorm(CHANNELS).to(device), x[own], weight[own])
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5)
    gathered: list[dict[str, Tensor]] = [{} for _ in range(world)]
    dist.all_gather_object(gathered, {name: value.cpu() for name, value in ours.items()})
    if rank == 0:
        whole = step(nn.BatchNorm2d(CHANNELS).to(device), x, weight)
        expected = {name: value.cpu() for name, value in whole.items()}
        joined = dict(gathered[0])
        for name in ("output", "input gradient"):
            joined[name] = torch.cat([each[name] for each in gathered])
        for name in expected:
            if name.startswith("gradient of"):  # each process holds the part of its own images
                joined[name] = sum(each[name] for each in gathered)
        torch.save({"ours": joined, "expected": expected}, path)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
