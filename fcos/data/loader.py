"""Batches of a dataset: their order, and the worker processes that read and augment them."""

from __future__ import annotations

import math
import os
import random
import signal
import threading
import weakref
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, islice
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from fcos.data.dataset import DetectionDataset, PILSample, Target, as_tensors
from fcos.data.transforms import Transform
from fcos.image_io import ImageError

Batch = tuple[list[Tensor], list[Target]]

# Error messages of torch and the system when workers cannot hand over a batch.
EXHAUSTED = ("shared memory", "No space left", "Bus error", "Too many open files", "ancdata")


@dataclass(frozen=True)
class SampleIndex:
    """The index of an image to load, and the seed of its augmentation."""

    index: int
    seed: str


class TrainingSampler(Sampler[list[SampleIndex]]):
    """Endless batches of a shuffled dataset.

    The order of images depends only on the seed. Each step takes the next `batch` images and each
    process its share of them, so that one process and eight see the same total batches. The images
    of a group are all portrait or all landscape, so that little is padded (aspect-ratio grouping,
    as in maskrcnn-benchmark and detectron2).

    Args:
        portrait: for each image of the dataset, whether it is at least as high as wide.
        batch: total images per step, over all processes.
        seed: the seed of shuffling and augmentation.
        group: consecutive images that share an orientation; 1 does not group. The published
            systems use 2, the images of one GPU.
        rank, world: this process and the number of processes.
        start: number of steps that a resumed run has completed and that are skipped.

    Raises:
        ValueError: the dataset is empty, or the processes cannot share a batch equally.
    """

    def __init__(
        self,
        portrait: Sequence[bool] | np.ndarray,
        batch: int,
        seed: int,
        group: int = 2,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
    ) -> None:
        if len(portrait) == 0:
            raise ValueError("an empty dataset cannot be sampled")
        if batch % world or batch < 1:
            raise ValueError(
                f"a total batch of {batch} images cannot be shared equally by {world} processes"
            )
        self.portrait = [bool(p) for p in portrait]
        self.batch, self.seed, self.group = batch, seed, group
        self.rank, self.world, self.start = rank, world, start

    def __iter__(self) -> Iterator[list[SampleIndex]]:
        share = self.batch // self.world
        stream = enumerate(self._grouped())
        for _ in islice(stream, self.start * self.batch):
            pass
        while True:
            step = [SampleIndex(i, f"{self.seed}/{n}") for n, i in islice(stream, self.batch)]
            yield step[self.rank * share : (self.rank + 1) * share]

    def _shuffled(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed)
        for _ in count():
            yield from torch.randperm(len(self.portrait), generator=generator).tolist()

    def _grouped(self) -> Iterator[int]:
        waiting: dict[bool, list[int]] = defaultdict(list)
        for index in self._shuffled():
            same = waiting[self.portrait[index]]
            same.append(index)
            if len(same) >= self.group:
                yield from same
                same.clear()


def ordered_batches(
    length: int, batch: int = 1, rank: int = 0, world: int = 1
) -> list[list[SampleIndex]]:
    """Return this process's batches for evaluation, which has every image once and in order."""
    indices = range(rank, length, world)
    starts = range(0, len(indices), batch)
    return [[SampleIndex(i, str(i)) for i in indices[start : start + batch]] for start in starts]


class Loader:
    """Iterate over `(images, targets)`: lists of (3, H, W) uint8 tensors and of target dicts.

    The batches do not depend on the number of workers, as each image is augmented with the
    sampler's seed for it. The global random state does not change.

    Args:
        dataset: the images and their annotations.
        batches: a `TrainingSampler` or `ordered_batches`.
        transforms: augmentation; None for evaluation.
        workers: number of processes that read images; 0 reads them in this process.
        prefetch: batches that each worker keeps ready.
        pin_memory: copy batches into page-locked memory, in a thread, for faster copies to a GPU.
        start_method: "fork", "spawn" or "forkserver"; None: the platform's default.

    Raises:
        ImageError: (while iterating) an image cannot be used; the message names it.
        RuntimeError: (while iterating) the workers ran out of shared memory or file descriptors.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        batches: Iterable[list[SampleIndex]],
        transforms: Transform | None = None,
        workers: int = 2,
        prefetch: int = 4,
        pin_memory: bool = False,
        start_method: str | None = None,
    ) -> None:
        closing: Any = threading.Event()
        if workers:
            with _explained(("",)):  # for any reason: an event needs shared memory, too
                closing = get_context(start_method).Event()
        weakref.finalize(self, closing.set)  # also at the end of the program
        self.loader: DataLoader[PILSample] = DataLoader(
            AugmentedDataset(dataset, transforms),
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=pin_memory,
            prefetch_factor=prefetch if workers else None,
            persistent_workers=workers > 0,
            worker_init_fn=partial(_ignore_signals, closing),
            multiprocessing_context=start_method if workers else None,
            # A separate generator, since DataLoader otherwise draws from the global one at each
            # start, so that a resumed run would differ from one that was never stopped.
            generator=torch.Generator(),
        )

    def __iter__(self) -> Iterator[Batch]:
        """Start the workers in this call, not at the first batch."""
        return self._unpacked(iter(self.loader))

    def _unpacked(self, batches: Iterator[PackedBatch | ImageError]) -> Iterator[Batch]:
        while True:
            try:
                with _explained():
                    batch = next(batches)
            except StopIteration:
                return
            if isinstance(batch, ImageError):
                raise ImageError(str(batch), batch.kind)  # `batch` would keep this frame alive
            yield batch.unpack()


@contextmanager
def _explained(reasons: Sequence[str] = EXHAUSTED) -> Iterator[None]:
    """Add the remedy to errors of workers that cannot share memory."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        if not any(reason in str(error) for reason in reasons):
            raise
        raise RuntimeError(
            "the loader's workers ran out of shared memory or file descriptors: enlarge "
            "/dev/shm (docker run --ipc=host or --shm-size=8g), raise `ulimit -n`, or "
            "lower data.workers, down to 0 to read images in the main process"
        ) from error


class AugmentedDataset(Dataset[PILSample]):
    """A dataset indexed by `SampleIndex`, each image augmented with that index's seed."""

    def __init__(self, dataset: DetectionDataset, transforms: Transform | None) -> None:
        self.dataset = dataset
        self.transforms = transforms

    def __getitem__(self, sample: SampleIndex) -> PILSample:
        image, target = self.dataset.open(sample.index)
        if self.transforms is None:
            return image, target
        return self.transforms(image, target, random.Random(sample.seed))

    def __getitems__(self, batch: list[SampleIndex]) -> list[PILSample] | ImageError:
        """Return a batch or the error, which would hold a whole traceback if a worker raised it."""
        try:
            return [self[sample] for sample in batch]
        except ImageError as error:
            return error


@dataclass(frozen=True)
class PackedBatch:
    """A batch as workers send it: all pixels in one tensor.

    Each tensor that a worker sends takes a file descriptor. With three tensors per image, large
    batches would exceed the usual limit of 1,024.

    Args:
        pixels: (bytes,) uint8, one image after another.
        shapes: (height, width, 3) of each image.
        targets: target of each image, with arrays for boxes and labels.
    """

    pixels: Tensor
    shapes: list[tuple[int, ...]]
    targets: list[Target]

    def pin_memory(self) -> PackedBatch:
        """Pin the pixels; DataLoader's pinning thread calls it."""
        return replace(self, pixels=self.pixels.pin_memory())

    def unpack(self) -> Batch:
        """Return images as (3, H, W) views of the pixels, and targets with tensors."""
        parts = self.pixels.split([math.prod(shape) for shape in self.shapes])
        images = [
            part.view(shape).permute(2, 0, 1)
            for part, shape in zip(parts, self.shapes, strict=True)
        ]
        return images, [as_tensors(target) for target in self.targets]


def collate(samples: Sequence[PILSample] | ImageError) -> PackedBatch | ImageError:
    """Copy the images of a batch into one tensor, in shared memory when called by a worker."""
    if isinstance(samples, ImageError):
        return samples
    images = [np.asarray(image) for image, _ in samples]
    size = sum(image.size for image in images)
    if get_worker_info() is None:
        pixels = torch.empty(size, dtype=torch.uint8)
    else:
        # As in torch's own collate. DataLoader would otherwise copy the pixels to shared memory
        # later, in a thread whose errors never reach the main process.
        storage = torch.UntypedStorage._new_shared(size)
        pixels = torch.empty(0, dtype=torch.uint8).set_(storage)
    np.concatenate([image.reshape(-1) for image in images], out=pixels.numpy())
    return PackedBatch(pixels, [image.shape for image in images], [t for _, t in samples])


def _ignore_signals(closing: Event, worker: int) -> None:
    """Leave Ctrl-C and a cluster's signals to the main process, which still needs its workers.

    Once the loader is closed, a worker ends at SIGTERM, as multiprocessing expects.
    """
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0) if closing.is_set() else None)
