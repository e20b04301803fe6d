"""The order of images: seeded, endless, the same for any number of processes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
import torch
from torch.utils.data import Sampler


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
        batch: total images of a step, over all processes.
        seed: of shuffling and augmentation.
        group: consecutive images that share an orientation; 1 does not group. The published
            systems use 2, the images of one GPU.
        rank, world: this process and the number of processes.
        start: steps that a resumed run has taken; iteration begins with the image after them.

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
    """Every image once and in order, for evaluation: the batches of this process."""
    indices = range(rank, length, world)
    starts = range(0, len(indices), batch)
    return [[SampleIndex(i, str(i)) for i in indices[start : start + batch]] for start in starts]
