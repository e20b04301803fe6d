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
from torch.fx.experimental import _config as shapes
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

import zoo
from benchmarks.memory import IMAGES_A_GPU, sgd, training_batch
from fcos import Detector

BLOCK = 512  # CUDA's allocator hands out multiples of it


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


def training_step(entry: str, size: tuple[int, int], images: int = IMAGES_A_GPU) -> dict[str, Any]:
    """Predicted peak memory of a process that trains an entry, in GB of 2^30 bytes.

    Args:
        entry: a name of the zoo.
        size: (height, width) of the images.
        images: a process.
    """
    detector = zoo.build(entry).train().to("meta")
    pictures, targets = training_batch(detector, size, images)
    pictures = [picture.to("meta") for picture in pictures]
    targets = [{key: value.to("meta") for key, value in t.items()} for t in targets]
    optimizer = sgd(detector)
    tracker = MemoryTracker()
    for tensor in [*detector.parameters(), *detector.buffers(), *pictures]:
        tracker.add(tensor)
    model = tracker.now
    # A boolean index has as many results as the mask is long: all locations count as positive.
    everything = shapes.patch(meta_nonzero_assume_all_nonzero=True)  # type: ignore[attr-defined]
    with everything, tracker:
        for _ in range(2):  # from the second on there is momentum
            _step(detector, pictures, targets, optimizer)
    return {"predicted_gb": tracker.peak / 2**30, "model_gb": model / 2**30}


def _step(
    detector: Detector,
    pictures: Sequence[Tensor],
    targets: Sequence[dict[str, Tensor]],
    optimizer: torch.optim.Optimizer,
) -> None:
    """`Detector.forward` without its look at the targets' values, and the optimiser's step."""
    batch = detector.images(pictures)
    levels = detector.network(batch)
    assigned = detector.assign(detector.points(levels, batch), targets, batch)
    losses = detector.loss(levels, assigned)
    optimizer.zero_grad(set_to_none=True)
    torch.stack(list(losses.values())).sum().backward()
    optimizer.step()
