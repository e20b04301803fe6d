"""The memory of training: gradient accumulation, activation checkpointing, and advice on errors."""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from backbones.resnet import BasicBlock
from fcos.boxes import Size
from fcos.detector import Detector
from fcos.preprocess import ImageBatch
from fcos.targets import Targets
from fcos.train import distributed

Target = dict[str, Any]
MicroBatch = tuple[list[Tensor], list[Target]]

RESERVE = 0.1  # fraction of free memory that stays unused, since allocators fragment
OBJECTS = 64  # per image of the probe, more than nearly all images of COCO have
# Messages of torch and of CUDA's libraries for lack of memory, such as for a workspace.
OUT_OF_MEMORY = r"out of memory|ALLOC(ATION)?_FAILED|CUBLAS_STATUS_NOT_INITIALIZED"


def split(images: Sequence[Tensor], targets: Sequence[Target], number: int) -> list[MicroBatch]:
    """Split a batch into equal micro-batches, in order."""
    size = micro_batch_size(len(images), number)
    return [
        (list(images[i : i + size]), list(targets[i : i + size]))
        for i in range(0, len(images), size)
    ]


def micro_batch_size(images: int, number: int) -> int:
    """Return the number of images per micro-batch; ValueError if they cannot be equal."""
    if images % number:
        raise ValueError(
            f"{images} images of a process cannot be split into {number} equal micro-batches: "
            "choose solver.accumulate among the divisors of its share of solver.batch"
        )
    return images // number


class StepNormalizers:
    """Computes the normalisers of a whole step's losses before its first micro-batch.

    Targets only depend on the images' sizes, so no activations need to be kept.
    """

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self._shapes = copy.deepcopy(detector).to("meta").eval()  # computes shapes, no values
        self._points: dict[Size, list[Tensor]] = {}

    def __call__(self, micro_batches: Sequence[MicroBatch]) -> list[Tensor]:
        """Return (3, N) for each micro-batch of N images, see `Loss.normalizers`."""
        assigned: list[Targets] = []
        for images, targets in micro_batches:
            sizes: list[Size] = [(image.shape[-2], image.shape[-1]) for image in images]
            size, offsets = self.detector.normalizer.layout(sizes)
            placed = self.detector.place(targets, offsets)
            assigned += self.detector.assign(self._points_of(size), placed)
        normalizers = self.detector.loss.normalizers(assigned)
        return list(normalizers.split(len(micro_batches[0][0]), dim=1))

    @torch.no_grad()
    def _points_of(self, size: Size) -> list[Tensor]:
        """Return the points of each level for a batch of this size."""
        if size not in self._points:
            empty = ImageBatch(torch.empty(1, 3, *size, device="meta"), [], [])
            self._points[size] = self.detector.points(self._shapes.network(empty), empty)
        return self._points[size]


def fitting_accumulation(
    detector: Detector,
    num_images: int,
    size: Size,
    dtype: torch.dtype = torch.float32,
    group: int = 1,
) -> int:
    """Return the least number of micro-batches with which a step fits on the GPU, by trial.

    Call it when everything else that training keeps in memory exists, such as the momentum.

    Args:
        detector: a detector in training mode on its device; it stays unchanged. CPUs are not
            probed.
        num_images: this process's share of a step.
        size: (height, width) of the largest training images.
        dtype: type of the network's computation.
        group: number of consecutive images of the same orientation; a larger micro-batch may hold
            portrait and landscape images, and is then padded to a square.

    Raises:
        RuntimeError: not even one image fits.
    """
    device = detector.normalizer.mean.device
    if device.type != "cuda":
        return 1
    square = (max(size), max(size))
    # Each rank tries by itself, since norms neither exchange nor keep statistics in eval mode.
    norms = [m for m in detector.modules() if isinstance(m, _BatchNorm) and m.training]
    for norm in norms:
        norm.eval()
    fitting = num_images + 1
    try:
        for number in [n for n in range(1, num_images + 1) if num_images % n == 0]:
            images = num_images // number
            if _fits(detector, images, size if images <= group else square, dtype):
                fitting = number
                break
    finally:
        for norm in norms:
            norm.train()
        torch.cuda.reset_peak_memory_stats(device)
    fitting = distributed.maximum(fitting)
    if fitting > num_images:
        raise RuntimeError(
            f"not even one image of {size[1]}x{size[0]} fits on the GPU: set "
            "solver.activation_checkpointing=true, solver.precision=bf16 or smaller sizes in "
            "`augmentation`"
        )
    return fitting


def _fits(detector: Detector, num_images: int, size: Size, dtype: torch.dtype) -> bool:
    """Whether one forward and backward pass leaves `RESERVE` of the memory."""
    device = detector.normalizer.mean.device
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    images = [torch.zeros(3, *size, dtype=torch.uint8)] * num_images
    boxes = torch.tensor([[0.0, 0.0, size[1], size[0]]]).repeat(OBJECTS, 1)
    target = {"boxes": boxes, "labels": torch.zeros(OBJECTS, dtype=torch.int64)}
    targets = [target] * num_images
    try:
        with torch.autocast(device.type, dtype, dtype != torch.float32):
            losses = detector(images, targets, torch.ones(3, num_images, device=device))
        torch.stack(list(losses.values())).sum().backward()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        detector.zero_grad()
    needed = torch.cuda.max_memory_allocated(device)
    # Free memory, including unused memory of this process's allocator.
    available = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return needed < (1 - RESERVE) * available


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the GPU is out of memory."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and bool(re.search(OUT_OF_MEMORY, str(error)))
    )


def peak_memory(device: torch.device) -> int:
    """Return peak memory in MiB: allocated on a GPU, else of this process, 0 if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    try:
        import resource
    except ImportError:  # Windows has none
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> (20 if sys.platform == "darwin" else 10)


@contextmanager
def advice_if_out_of_memory(images: Sequence[Tensor], accumulate: int) -> Iterator[None]:
    """Turn an out-of-memory error of the GPU into one that says which settings to change."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        size = len(images) // accumulate
        shapes = " ".join(f"{image.shape[-1]}x{image.shape[-2]}" for image in images[:size])
        raise RuntimeError(
            f"out of GPU memory at {size} images at a time ({shapes}): raise "
            f"solver.accumulate (now {accumulate}; the total batch stays the same), or "
            "set solver.activation_checkpointing=true or solver.precision=bf16"
        ) from error


def checkpoint_activations(detector: Detector) -> None:
    """Keep only the inputs of the backbone's blocks and of the head's towers (arXiv:1604.06174).

    Everything between them is computed a second time in the backward pass. Parameters keep their
    names, and batch norms update their statistics only once.
    """
    assert isinstance(detector.backbone, nn.Module)
    towers = [detector.head.shared_tower, detector.head.cls_tower, detector.head.box_tower]
    for module in [*_blocks(detector.backbone), *towers]:
        norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
        # Unlike a closure, a partial is copied along with the module, as for a moving average.
        module.forward = partial(_checkpointed, module.forward, norms)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the outermost blocks: the members of each `Sequential`, and DLA's blocks."""
    for child in module.children():
        if isinstance(child, nn.Sequential):
            yield from child
        elif isinstance(child, BasicBlock):
            yield child
        else:
            yield from _blocks(child)


def _checkpointed(forward: Callable[..., Any], norms: Sequence[_BatchNorm], *args: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args)
    return checkpoint(
        forward,
        *args,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), _statistics_kept(norms)),
    )


@contextmanager
def _statistics_kept(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Keep batch norms from updating their statistics a second time."""
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, count in before:
            norm.momentum, norm.num_batches_tracked = momentum, count
