"""Distributed training: ranks and devices, collective operations, and signals to stop."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

T = TypeVar("T")
LAUNCHER_VARIABLES = ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT")
TIMEOUT = timedelta(minutes=30)  # after which processes stop waiting for each other
STOP = ("SIGTERM", "SIGINT", "SIGUSR1")
# torchrun passes on the Ctrl-C that its workers have had from the terminal already.
REPEATED_WITHIN = 3.0  # seconds


@contextmanager
def process_group(device: str | None = None) -> Iterator[torch.device]:
    """Join the processes that torchrun or Slurm's `srun` started, if any.

    Args:
        device: "cpu" or "cuda"; None for a GPU if there is one. Each process takes the GPU of
            its local rank.

    Yields:
        This process's device.
    """
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    _join_slurm_step()
    launched = _is_launched()
    local = int(os.environ.get("LOCAL_RANK", 0)) if launched else 0
    if kind == "cuda":
        if local >= torch.cuda.device_count():
            raise RuntimeError(
                f"process {local} of this machine has no GPU: there are "
                f"{torch.cuda.device_count()}; start at most as many processes"
            )
        torch.cuda.set_device(local)
        kind = f"cuda:{local}"
    if not launched:
        yield torch.device(kind)
        return
    store, rank, world = next(rendezvous("env://"))
    one_machine = os.environ.get("GROUP_WORLD_SIZE") == "1"
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and one_machine:
        # torchrun serves one store, with the addresses of the processes that ended, to all its
        # restarts. On several machines their counts may differ: there set
        # TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for torchrun, and each restart has its own store.
        store = PrefixStore(f"restart {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    dist.init_process_group(
        # Python objects and requests to stop are exchanged by gloo, without waiting for the GPU.
        "cpu:gloo,cuda:nccl" if kind.startswith("cuda") else "gloo",
        store=store,
        rank=rank,
        world_size=world,
        timeout=TIMEOUT,
        device_id=torch.device(kind) if kind.startswith("cuda") else None,
    )
    try:
        yield torch.device(kind)
    finally:
        # In torch 2.6 a thread of gloo that still frees a tensor waits for the GIL, which
        # destroying the group holds until that thread has ended.
        time.sleep(0.1)
        dist.destroy_process_group()


def rank() -> int:
    """Return the rank of this process, 0 if there is only one."""
    return dist.get_rank() if _many() else 0


def world() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if _many() else 1


def share(batch: int) -> int:
    """Return this process's number of images per step; ValueError unless the shares are equal."""
    if batch % world():
        raise ValueError(f"{world()} processes cannot share solver.batch={batch} images equally")
    return batch // world()


def average(values: Tensor) -> Tensor:
    """Average over ranks, in place."""
    if world() > 1:
        dist.all_reduce(values)
        values /= world()
    return values


def maximum(number: int) -> int:
    """Return the largest number of all ranks, exchanged in CPU memory without waiting for a GPU."""
    if world() == 1:
        return number
    largest = torch.tensor(number)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


def gather(item: Any) -> list[Any]:
    """Return the objects of all ranks on rank 0; an empty list on the others."""
    if world() == 1:
        return [item]
    items: list[Any] = [None] * world()
    dist.gather_object(item, items if rank() == 0 else None)
    return items if rank() == 0 else []


def broadcast(item: Any) -> Any:
    """Return the object of rank 0 on every rank."""
    if world() == 1:
        return item
    items = [item]
    dist.broadcast_object_list(items)
    return items[0]


def of_leader(function: Callable[[], T]) -> T:
    """Call a function on rank 0; every rank returns what it returns, or raises what it raises."""
    result: Any = None
    error: Exception | None = None
    if rank() == 0:
        try:
            result = function()
        except Exception as reason:
            error = reason
    result, error = broadcast((result, error))
    if error is not None:
        raise error
    return cast(T, result)


def copy_from_leader(tensor: Tensor) -> None:
    """Overwrite a tensor with rank 0's values."""
    if world() > 1:
        dist.broadcast(tensor, 0)


def barrier() -> None:
    """Wait for all ranks."""
    if world() > 1:
        dist.barrier()


@contextmanager
def leader_first() -> Iterator[None]:
    """Run the block on rank 0 first, then on the others, which find its files written."""
    if rank() != 0:
        barrier()
    yield
    if rank() == 0:
        barrier()


class StopSignals:
    """Record SIGTERM, SIGINT and SIGUSR1 within the block, instead of ending the process.

    They come from a user, a cluster that needs its machine back, or an elastic restart. A second
    SIGTERM or SIGINT, later than launchers repeat it, ends the process at once, since a run may
    hang in its data or in another process. Rank 0 prints a line at the first signal.

    Attributes:
        received: the number of the first signal, 0 for none.
    """

    def __init__(self) -> None:
        self.received = 0
        self._received_at: dict[int, float] = {}
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for name in STOP:
                if hasattr(signal, name):  # Windows has no SIGUSR1
                    number = getattr(signal, name)
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        now = time.monotonic()
        first = self._received_at.setdefault(number, now)
        if name != "SIGUSR1" and now - first > REPEATED_WITHIN:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        if not self.received and rank() == 0:
            again_at_once = "" if name == "SIGUSR1" else "; send it again to stop without saving"
            line = f"\n{name}: saving and stopping{again_at_once}\n"
            os.write(2, line.encode())  # a handler must not wait for the lock of `sys.stderr`
        self.received = self.received or number


def _is_launched() -> bool:
    """Whether a launcher started this process as one of several.

    Some cluster images set only WORLD_SIZE, which starts no processes.
    """
    missing = [name for name in LAUNCHER_VARIABLES if name not in os.environ]
    if not missing:
        return True
    if os.environ.get("WORLD_SIZE", "1") != "1":
        warnings.warn(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']} is set but {', '.join(missing)} not: this "
            "process trains on its own; start several with torchrun",
            stacklevel=4,
        )
    return False


def _join_slurm_step() -> None:
    """Set torchrun's environment variables from Slurm's when `srun` started several tasks.

    A batch script has a task number, too, but no step, and of the tasks of an interactive step
    (`srun --pty`) only the first has a shell. Variables of torchrun take precedence.
    """
    tasks, rank, local, job = (
        int(os.environ.get(f"SLURM_{name}", "").strip() or -1)
        for name in ("STEP_NUM_TASKS", "PROCID", "LOCALID", "JOB_ID")
    )
    if tasks < 2 or min(rank, local) < 0 or "SLURM_PTY_PORT" in os.environ:
        return
    if all(name in os.environ for name in LAUNCHER_VARIABLES):
        return
    own_gpu = torch.cuda.device_count() == 1  # with --gpus-per-task=1 a task sees only its own
    os.environ.update(
        WORLD_SIZE=str(tasks),
        RANK=str(rank),
        LOCAL_RANK="0" if own_gpu else str(local),
    )
    # The step starts from the first of the batch script's machines.
    os.environ.setdefault("MASTER_ADDR", os.environ.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1"))
    os.environ.setdefault("MASTER_PORT", str(20000 + max(job, 0) % 20000))


def _many() -> bool:
    return dist.is_available() and dist.is_initialized()
