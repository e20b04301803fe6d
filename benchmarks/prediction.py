"""Training memory without a GPU: one step on tensors that have shapes but no values.

Every storage that an operation makes is followed until it is freed, forward and backward, so that
the peak is that of an allocator without fragmentation and of kernels without work space.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

import zoo
from benchmarks.memory import IMAGES_A_GPU, sgd, training_batch
from fcos import Detector
from zoo.build import DTYPES

BLOCK = 512  # CUDA's allocator hands out multiples of it
aten = torch.ops.aten


class MemoryTracker(TorchDispatchMode):
    """Counts the bytes of all storages that live while it is active.

    `now` and `peak` are in bytes; `add` counts tensors that were there before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def add(self, tensor: Tensor) -> None:
        """Count a tensor's storage, once, until it is freed."""
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._known and self._known[key]() is storage:
            return
        size = -(-storage.nbytes() // BLOCK) * BLOCK

        def freed(_: Any, key: int = key, size: int = size) -> None:
            self.now -= size
            self._known.pop(key, None)

        self._known[key] = weakref.ref(storage, freed)
        self.now += size
        self.peak = max(self.peak, self.now)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor):
                self.add(value)
        return result


class EverythingPositive(TorchDispatchMode):
    """Gives what depends on values the only length that is known without: that of its argument.

    Locations that learn a box are few; to take all of them for such adds some megabytes.
    """

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is aten.nonzero.default:
            return _all_indices(args[0])
        if func is aten.bincount.default:
            return torch.empty_like(args[0], dtype=torch.int64)
        if func in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default):
            indices: list[Tensor | None] = []
            for index in args[1]:
                boolean = index is not None and index.dtype == torch.bool
                indices += _all_indices(index).unbind(1) if boolean else [index]
            args = (args[0], indices, *args[2:])
        return func(*args, **(kwargs or {}))


def _all_indices(mask: Tensor) -> Tensor:
    return torch.empty(mask.numel(), mask.dim(), dtype=torch.int64, device=mask.device)


def training_step(
    entry: str,
    size: tuple[int, int],
    images: int = IMAGES_A_GPU,
    precision: str = "fp32",
) -> dict[str, Any]:
    """Predicted peak memory of a process that trains an entry, in GB of 2^30 bytes.

    Args:
        entry: a name of the zoo.
        size: (height, width) of the images.
        images: a process.
        precision: "fp32", or one that the network is autocast to.
    """
    tracker = MemoryTracker()
    with FakeTensorMode(), EverythingPositive():
        detector = zoo.build(entry).train()
        pictures, targets = training_batch(detector, size, images)
        optimizer = sgd(detector)
        for tensor in [*detector.parameters(), *detector.buffers(), *pictures]:
            tracker.add(tensor)
        model = tracker.now
        with tracker:
            for _ in range(2):  # from the second on there is momentum
                _step(detector, pictures, targets, optimizer, precision)
    return {"predicted_gb": tracker.peak / 2**30, "model_gb": model / 2**30}


def _step(
    detector: Detector,
    pictures: Sequence[Tensor],
    targets: Sequence[dict[str, Tensor]],
    optimizer: torch.optim.Optimizer,
    precision: str,
) -> None:
    """`Detector.forward` without its look at the targets' values, and the optimiser's step."""
    with torch.autocast("cpu", DTYPES.get(precision), enabled=precision in ("bf16", "fp16")):
        batch = detector.normalizer(pictures)
        boxes = detector.place(targets, batch.offsets)
        levels = detector.network(batch)
        assigned = detector.assign(detector.points(levels, batch), boxes)
        losses = detector.loss(levels, assigned)
    torch.stack(list(losses.values())).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
