"""One process of several: who it is, its device, and the few things that ranks tell each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous


@contextmanager
def process_group(device: str | None = None, timeout_minutes: float = 30) -> Iterator[torch.device]:
    """Join the processes that torchrun or Slurm's `srun` started, if any.

    Args:
        device: "cpu" or "cuda"; None for a GPU where there is one. Each process takes the GPU of
            its local rank.

    Yields:
        This process's device.
    """
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    _join_slurm_step()
    local = int(os.environ.get("LOCAL_RANK", 0))
    if kind == "cuda":
        if local >= torch.cuda.device_count():
            raise RuntimeError(
                f"process {local} of this machine has no GPU: there are "
                f"{torch.cuda.device_count()}; start at most as many processes"
            )
        torch.cuda.set_device(local)
        kind = f"cuda:{local}"
    if "WORLD_SIZE" not in os.environ:
        yield torch.device(kind)
        return
    store, rank, world = next(rendezvous("env://"))
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and _one_machine():
        # torchrun serves the same store, with the addresses of the dead, to all its restarts. On
        # several machines their counts may differ: there TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1,
        # set for torchrun, gives each restart a store of its own.
        store = PrefixStore(f"restart {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    dist.init_process_group(
        "nccl" if kind.startswith("cuda") else "gloo",
        store=store,
        rank=rank,
        world_size=world,
        timeout=timedelta(minutes=timeout_minutes),
    )
    try:
        yield torch.device(kind)
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Of this process, 0 where there is only one."""
    return dist.get_rank() if _many() else 0


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if _many() else 1


def average(values: Tensor) -> Tensor:
    """The mean over ranks, in place."""
    if world() > 1:
        dist.all_reduce(values)
        values /= world()
    return values


def maximum(number: int) -> int:
    """The largest of all ranks'."""
    return int(max(broadcast(gather(number))))


def gather(thing: Any) -> list[Any]:
    """What each rank has, on rank 0; an empty list on the others."""
    if world() == 1:
        return [thing]
    things: list[Any] = [None] * world()
    dist.gather_object(thing, things if rank() == 0 else None)
    return things if rank() == 0 else []


def broadcast(thing: Any) -> Any:
    """Rank 0's, on every rank."""
    if world() == 1:
        return thing
    things = [thing]
    dist.broadcast_object_list(things)
    return things[0]


def copy_from_leader(tensor: Tensor) -> None:
    """Rank 0's values, in place, on every rank."""
    if world() > 1:
        dist.broadcast(tensor, 0)


def barrier() -> None:
    """Wait for all ranks."""
    if world() > 1:
        dist.barrier()


@contextmanager
def leader_first() -> Iterator[None]:
    """Rank 0 does what is within before the others, who then find it done."""
    if rank() != 0:
        barrier()
    yield
    if rank() == 0:
        barrier()


def _join_slurm_step() -> None:
    """Say in torchrun's words what `srun` said in its own, where several tasks run this program.

    A batch script has a task number, too, but no step; and torchrun's own words go first.
    """
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    if tasks == 1 or "WORLD_SIZE" in os.environ:
        return
    job = int(os.environ.get("SLURM_JOB_ID", 0))
    own_gpu = torch.cuda.device_count() == 1  # --gpus-per-task=1 shows a task no other
    os.environ.update(
        WORLD_SIZE=str(tasks),
        RANK=os.environ["SLURM_PROCID"],
        LOCAL_RANK="0" if own_gpu else os.environ["SLURM_LOCALID"],
    )
    # The step starts from the first of the batch script's machines.
    os.environ.setdefault("MASTER_ADDR", os.environ.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1"))
    os.environ.setdefault("MASTER_PORT", str(20000 + job % 20000))


def _one_machine() -> bool:
    return os.environ.get("GROUP_WORLD_SIZE") == "1"


def _many() -> bool:
    return dist.is_available() and dist.is_initialized()
