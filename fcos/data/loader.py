"""From a dataset and its batches to lists of images and targets, read by worker processes."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fcos.data.dataset import DetectionDataset, Sample, Target
from fcos.data.sampler import Draw
from fcos.data.transforms import Transform

Batch = tuple[list[Tensor], list[Target]]


def loader(
    dataset: DetectionDataset,
    batches: Iterable[list[Draw]],
    transforms: Transform | None = None,
    workers: int = 2,
    prefetch: int = 4,
    pin_memory: bool = False,
) -> DataLoader[Sample]:
    """Iterate over `(images, targets)`, lists of (3, H, W) uint8 tensors and of dicts.

    The result does not depend on the number of workers: each image is augmented with the key that
    the sampler drew for it. The global random state is left alone.

    Args:
        dataset: what to read.
        batches: a `TrainingSampler` or `ordered_batches`.
        transforms: augmentation, none for evaluation.
        workers: reading processes; 0 reads in this one.
        prefetch: batches that each worker keeps ready.
        pin_memory: lay batches into page-locked memory, for faster copies to a GPU.
    """
    return DataLoader(
        Augmented(dataset, transforms),
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        prefetch_factor=prefetch if workers else None,
        worker_init_fn=_leave_signals_to_the_trainer,
        # Its own generator: DataLoader otherwise takes a number from the global one at each start,
        # and a resumed run would no longer be the same as one never stopped.
        generator=torch.Generator(),
    )


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


def collate(samples: Sequence[Sample]) -> Batch:
    """Images and targets as two lists: images of a batch differ in size."""
    images, targets = zip(*samples, strict=True)
    return list(images), list(targets)


def _leave_signals_to_the_trainer(worker: int) -> None:
    """Signals to the whole process group are the trainer's to act on, and it needs its workers.

    A second SIGTERM ends a worker: multiprocessing sends one when the main process exits.
    """
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: signal.signal(number, signal.SIG_DFL))
