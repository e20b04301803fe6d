"""A step's images in several parts, with the gradients of all of them at once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fcos.boxes import Size
from fcos.detector import Detector
from fcos.head import Level, map_size
from fcos.preprocess import ImageBatch
from fcos.targets import Targets

Target = dict[str, Any]
Part = tuple[list[Tensor], list[Target]]


def split(images: Sequence[Tensor], targets: Sequence[Target], parts: int) -> list[Part]:
    """Equal parts of a batch, in order."""
    size = len(images) // parts
    if size * parts != len(images) or size == 0:
        raise ValueError(
            f"{len(images)} images of a process cannot be computed in {parts} equal parts: "
            "choose solver.accumulate among the divisors of its share of solver.batch"
        )
    return [
        (list(images[i : i + size]), list(targets[i : i + size]))
        for i in range(0, len(images), size)
    ]


class StepNormalizers:
    """What the losses of a whole step are divided by, known before its first part is computed.

    Targets depend on the images' sizes alone, so that no activations need to be kept.
    """

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self._shapes = copy.deepcopy(detector).to("meta").eval()  # computes shapes, no values
        self._levels: dict[Size, list[Level]] = {}

    def __call__(self, parts: Sequence[Part]) -> Tensor:
        """(3, N) for the N images of all parts, see `Loss.normalizers`."""
        assigned: list[Targets] = []
        for images, targets in parts:
            sizes: list[Size] = [(image.shape[-2], image.shape[-1]) for image in images]
            size, offsets = self.detector.normalizer.layout(sizes)
            levels = self._levels_of(size)
            points = self.detector.points(levels, _empty(size))
            assigned += self.detector.assign(points, self.detector.place(targets, offsets))
        return self.detector.loss.normalizers(assigned)

    @torch.no_grad()
    def _levels_of(self, size: Size) -> list[Level]:
        """Levels without content of the sizes that the network's would have."""
        if size not in self._levels:
            device = self.detector.normalizer.mean.device
            self._levels[size] = [
                level._replace(logits=torch.empty(1, device=device).expand(1, 1, *map_size(level)))
                for level in self._shapes.network(_empty(size))
            ]
        return self._levels[size]


def _empty(size: Size) -> ImageBatch:
    """A batch that is nothing but its height and width."""
    return ImageBatch(torch.empty(1, 3, *size, device="meta"), [], [])
