"""From a dataset and its batches to lists of images and targets, read by worker processes."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fcos.data.dataset import DetectionDataset, Picture, Target, as_tensors
from fcos.data.handover import Handover, Packet, keep_freed_memory
from fcos.data.sampler import Draw
from fcos.data.transforms import Transform
from fcos.read import ImageError

Batch = tuple[list[Tensor], list[Target]]


class Loader:
    """Iterate over `(images, targets)`: lists of (3, H, W) uint8 tensors and of target dicts.

    The result does not depend on the number of workers: each image is augmented with the key that
    the sampler drew for it. The global random state is left alone.

    Args:
        dataset: what to read.
        batches: a `TrainingSampler` or `ordered_batches`.
        transforms: augmentation, none for evaluation.
        workers: reading processes, forked from this one; 0 reads in this one, as Windows must.
        prefetch: batches that each worker keeps ready.
        pin_memory: lay images into page-locked memory, for faster copies to a GPU.
        views: spare a copy; an image is then good only until the batch after the next is asked for.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        batches: Iterable[list[Draw]],
        transforms: Transform | None = None,
        workers: int = 2,
        prefetch: int = 4,
        pin_memory: bool = False,
        views: bool = False,
    ) -> None:
        self.source = Augmented(dataset, transforms)
        self.batches = batches
        self.workers = workers
        self.prefetch = prefetch
        self.pin_memory = pin_memory
        self.views = views

    def __iter__(self) -> Iterator[Batch]:
        if self.workers == 0:
            for draws in self.batches:
                yield collate([self.source[draw] for draw in draws], self.pin_memory)
            return
        keep_freed_memory()
        handover = Handover(self.workers, self.prefetch)
        loader = DataLoader(
            Packed(self.source, handover),
            batch_sampler=self.batches,
            num_workers=self.workers,
            collate_fn=_as_it_is,
            prefetch_factor=self.prefetch,
            worker_init_fn=_start_worker,
            multiprocessing_context="fork",  # the mapping is inherited, not sent
            # Its own generator: DataLoader otherwise takes a number from the global one at each
            # start, and a resumed run would no longer be the same as one never stopped.
            generator=torch.Generator(),
        )
        for packed in loader:
            if isinstance(packed, ImageError):
                raise packed
            yield handover.unpack(packed, self.pin_memory, self.views)


class Augmented(Dataset[Picture]):
    """A dataset whose items are asked for by `Draw` and augmented with its key."""

    def __init__(self, dataset: DetectionDataset, transforms: Transform | None) -> None:
        self.dataset = dataset
        self.transforms = transforms

    def __getitem__(self, draw: Draw) -> Picture:
        image, target = self.dataset.open(draw.index)
        if self.transforms is None:
            return image, target
        return self.transforms(image, target, random.Random(draw.key))


class Packed(Dataset[Packet]):
    """Batches of a dataset, each image handed over before the next one is read.

    It is then still in the processor's cache, where a batch of 16 would not be.
    """

    def __init__(self, source: Augmented, handover: Handover) -> None:
        self.source = source
        self.handover = handover

    def __getitems__(self, draws: list[Draw]) -> list[Packet] | ImageError:
        try:
            return self.handover.pack(self.source[draw] for draw in draws)
        except ImageError as error:  # raised here, its message would become a whole traceback
            return error


def _as_it_is(batch: list[Packet] | ImageError) -> list[Packet] | ImageError:
    return batch


def collate(pictures: Sequence[Picture], pin_memory: bool = False) -> Batch:
    """Images and targets as two lists: images of a batch differ in size."""
    images = [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image, _ in pictures]
    if pin_memory:
        images = [image.pin_memory() for image in images]
    return images, [as_tensors(target) for _, target in pictures]


def _start_worker(worker: int) -> None:
    """Leave signals to the whole process group to the trainer, which needs its workers to the end.

    A second SIGTERM ends a worker: multiprocessing sends one when the main process exits.
    """
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: signal.signal(number, signal.SIG_DFL))
