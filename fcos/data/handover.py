"""How worker processes hand batches to the training process: memory that is used over and over.

DataLoader moves every tensor into shared memory of its own. The page faults of that can cost a
quarter of decoding and resizing an image, each tensor takes a file descriptor, and a container's
small /dev/shm overflows. Here pixels go through one anonymous mapping, all else through the pipe.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from fcos.data.dataset import Picture, Target, as_tensors


def keep_freed_memory() -> None:
    """Let this process and those it forks use the memory of freed images for the next ones.

    glibc returns large blocks to the kernel and faults new ones in, which can take as long as
    decoding them; it stops once a larger one has been freed (mallopt(3), M_MMAP_THRESHOLD, whose
    greatest value is 32 MiB). Elsewhere this does nothing.
    """
    np.empty((32 << 20) - (64 << 10), dtype=np.uint8)


@dataclass(frozen=True)
class Place:
    """Where in the mapping an image lies: in a worker's `turn`-th batch, from byte `start` on."""

    worker: int
    turn: int
    start: int
    shape: tuple[int, ...]  # height, width, channels


Packet = tuple[Place | np.ndarray, Target]


class Handover:
    """Packs batches in worker processes and unpacks them in the process that forked those.

    A worker writes its batches to its slots in turn. DataLoader lets a worker be at most `prefetch`
    batches ahead, so that a slot has been read when it is written again; stamps prove it.

    Args:
        workers: worker processes.
        prefetch: DataLoader's `prefetch_factor`.
        room: bytes of a batch's pixels. Images beyond it go through the pipe; pages that are never
            written take no memory.
    """

    def __init__(self, workers: int, prefetch: int, room: int = 64 << 20) -> None:
        self.slots = prefetch + 2
        self.room = room
        pixels = np.frombuffer(mmap.mmap(-1, workers * self.slots * room), dtype=np.uint8)
        stamps = np.frombuffer(mmap.mmap(-1, workers * self.slots * 8), dtype=np.int64)
        self.pixels = pixels.reshape(workers, self.slots, room)
        self.stamps = stamps.reshape(workers, self.slots)
        self.turn = 0  # batches packed; each worker process counts its own

    def pack(self, pictures: Iterable[Picture]) -> list[Packet]:
        """In a worker: lay the images into its next slot, each as soon as it is there."""
        info = get_worker_info()
        worker = 0 if info is None else info.id
        self.turn += 1
        self.stamps[worker, self.turn % self.slots] = self.turn
        packed: list[Packet] = []
        start = 0
        for image, target in pictures:
            pixels = np.asarray(image)
            if start + pixels.size > self.room:
                packed.append((pixels, target))
            else:
                place = Place(worker, self.turn, start, pixels.shape)
                self._at(place)[:] = pixels
                packed.append((place, target))
                start += pixels.size
            del image, pixels  # the next one takes their memory, which is cached
        return packed

    def unpack(
        self, packed: Sequence[Packet], pin_memory: bool = False, views: bool = False
    ) -> tuple[list[Tensor], list[Target]]:
        """In the training process: images (3, H, W) in memory of their own, and targets.

        `views` of the mapping spare the copy; a worker writes over one that lies two batches back.
        """
        images = []
        for source, _ in packed:
            pixels = self._at(source) if isinstance(source, Place) else source
            if views:
                image = torch.from_numpy(pixels)
            else:
                image = torch.empty(source.shape, dtype=torch.uint8, pin_memory=pin_memory)
                # NumPy copies with one thread; torch would wake all of its threads for each image.
                image.numpy()[:] = pixels
            images.append(image.permute(2, 0, 1))
        for source, _ in packed:
            if isinstance(source, Place):
                self._check_stamp(source)
        return images, [as_tensors(target) for _, target in packed]

    def _at(self, place: Place) -> np.ndarray:
        slot = self.pixels[place.worker, place.turn % self.slots]
        return slot[place.start : place.start + math.prod(place.shape)].reshape(place.shape)

    def _check_stamp(self, place: Place) -> None:
        stamp = self.stamps[place.worker, place.turn % self.slots]
        if stamp != place.turn:
            raise RuntimeError(
                f"worker {place.worker} wrote batch {stamp} over batch {place.turn} before it was "
                "read: DataLoader let it run further ahead than its prefetch_factor"
            )
