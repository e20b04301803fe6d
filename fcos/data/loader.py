"""From a dataset and its batches to lists of images and targets, read by worker processes."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fcos.data.dataset import DetectionDataset, Sample, Target
from fcos.data.handover import Handover
from fcos.data.sampler import Draw
from fcos.data.transforms import Transform

Batch = tuple[list[Tensor], list[Target]]


class Loader:
    """Iterate over `(images, targets)`: lists of (3, H, W) uint8 tensors and of target dicts.

    The result does not depend on the number of workers: each image is augmented with the key that
    the sampler drew for it. The global random state is left alone.

    Args:
        dataset: what to read.
        batches: a `TrainingSampler` or `ordered_batches`.
        transforms: augmentation, none for evaluation.
        workers: reading processes; 0 reads in this one.
        prefetch: batches that each worker keeps ready.
        pin_memory: lay images into page-locked memory, for faster copies to a GPU.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        batches: Iterable[list[Draw]],
        transforms: Transform | None = None,
        workers: int = 2,
        prefetch: int = 4,
        pin_memory: bool = False,
    ) -> None:
        self.source = Augmented(dataset, transforms)
        self.batches = batches
        self.workers = workers
        self.prefetch = prefetch
        self.pin_memory = pin_memory

    def __iter__(self) -> Iterator[Batch]:
        if self.workers == 0:
            for draws in self.batches:
                yield collate([self.source[draw] for draw in draws], self.pin_memory)
            return
        handover = Handover(self.workers, self.prefetch)
        loader = DataLoader(
            self.source,
            batch_sampler=self.batches,
            num_workers=self.workers,
            collate_fn=handover.pack,
            prefetch_factor=self.prefetch,
            worker_init_fn=_leave_signals_to_the_trainer,
            multiprocessing_context="fork",  # what the mapping is inherited by
            # Its own generator: DataLoader otherwise takes a number from the global one at each
            # start, and a resumed run would no longer be the same as one never stopped.
            generator=torch.Generator(),
        )
        for packed in loader:
            yield handover.unpack(packed, self.pin_memory)


class Augmented(Dataset[Sample]):
    """A dataset whose items are asked for by `Draw` and augmented with its key."""

    def __init__(self, dataset: DetectionDataset, transforms: Transform | None) -> None:
        self.dataset = dataset
        self.transforms = transforms

    def __getitem__(self, draw: Draw) -> Sample:
        image, target = self.dataset[draw.index]
        if self.transforms is None:
            return image, target
        return self.transforms(image, target, random.Random(draw.key))


def collate(samples: Sequence[Sample], pin_memory: bool = False) -> Batch:
    """Images and targets as two lists: images of a batch differ in size."""
    images = [image.pin_memory() if pin_memory else image for image, _ in samples]
    return images, [target for _, target in samples]


def _leave_signals_to_the_trainer(worker: int) -> None:
    """Signals to the whole process group are the trainer's to act on, and it needs its workers.

    A second SIGTERM ends a worker: multiprocessing sends one when the main process exits.
    """
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: signal.signal(number, signal.SIG_DFL))
