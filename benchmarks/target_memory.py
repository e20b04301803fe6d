"""Memory of target assignment in a crowd: `python -m benchmarks.target_memory`.

Assigns 1,000 boxes to the locations of an 800x1333 image, padded to 800x1344, on five levels: once
with `fcos.TargetAssigner`, once with the formula written out over all (location, box) pairs at
once. Each runs in a process of its own, whose peak memory is read before and after.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.memory import forget_peak_rss, rss_mb
from fcos import TargetAssigner
from fcos.boxes import box_area, boxes_to_ltrb, level_points
from fcos.targets import Targets

LIMIT_MB = 200
INPUT = (800, 1344)
STRIDES = (8, 16, 32, 64, 128)
SIZE_RANGES = [(-1.0, 64.0), (64.0, 128.0), (128.0, 256.0), (256.0, 512.0), (512.0, 1e8)]
RADIUS = 1.5


@dataclass(frozen=True)
class Crowd:
    """The image points of each level, `boxes` (n, 4) xyxy and their `labels` (n,)."""

    points: list[Tensor]
    boxes: Tensor
    labels: Tensor


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 if the assigner takes more than it may."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--boxes", type=int, default=1000, help="%(default)s")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    options = parser.parse_args(arguments)
    height, width = INPUT
    table = Table(title=f"{options.boxes} boxes in {height}x{width}", title_justify="left")
    for heading in ("", "peak extra memory, MB", "time, ms", "positives"):
        table.add_column(heading, justify="right" if heading else "left")
    peaks = {}
    for name in METHODS:
        # A process that ran the other method would hold memory that this one could use again.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            row = pool.submit(measure, name, options.boxes, options.device).result()
        peaks[name] = row[0]
        table.add_row(name, *(f"{value:.0f}" for value in row))
    Console().print(table)
    return int(peaks["TargetAssigner"] > LIMIT_MB)


def measure(name: str, boxes: int, device: str = "cpu") -> tuple[float, float, int]:
    """Peak extra megabytes, milliseconds and the number of positives of one method."""
    METHODS[name](make_crowd(2, device))  # loads what the first call of an operation loads
    crowd = make_crowd(boxes, device)
    forget_peak(device)
    before = peak_mb(device)
    start = time.perf_counter()
    positives = int((METHODS[name](crowd).labels >= 0).sum())
    ms = 1e3 * (time.perf_counter() - start)
    return peak_mb(device) - before, ms, positives


def make_crowd(count: int, device: str) -> Crowd:
    """Boxes of 8 to 400 pixels, anywhere in the image."""
    generator = torch.Generator().manual_seed(0)
    height, width = INPUT
    centre = torch.rand(count, 2, generator=generator) * torch.tensor([width, height])
    extent = 8 * 50 ** torch.rand(count, 2, generator=generator)
    boxes = torch.cat((centre - extent / 2, centre + extent / 2), dim=1)
    points = [
        level_points((-(-height // s), -(-width // s)), (s, s), 0.5, torch.device(device))
        for s in STRIDES
    ]
    return Crowd(points, boxes.to(device), (torch.arange(count) % 80).to(device))


def assign_in_chunks(crowd: Crowd) -> Targets:
    """What training does."""
    assigner = TargetAssigner(SIZE_RANGES, radius=RADIUS)
    return assigner(crowd.points, STRIDES, crowd.boxes, crowd.labels)


def assign_all_at_once(crowd: Crowd) -> Targets:
    """The same over all pairs of locations and boxes at once."""
    location = torch.cat(crowd.points)

    def column(values: Sequence[float]) -> Tensor:
        pairs = zip(crowd.points, values, strict=True)
        return torch.cat([p.new_full((len(p), 1), value) for p, value in pairs])

    low, high = (column([limits[i] for limits in SIZE_RANGES]) for i in range(2))
    reach = column([RADIUS * stride for stride in STRIDES])
    ltrb = boxes_to_ltrb(location[:, None], crowd.boxes[None])
    extent = ltrb.amax(dim=-1)
    centre = (crowd.boxes[:, :2] + crowd.boxes[:, 2:]) / 2
    near = (location[:, None] - centre[None]).abs().amax(dim=-1) < reach
    positive = (ltrb.amin(dim=-1) > 0) & (extent >= low) & (extent <= high) & near
    area = box_area(crowd.boxes).expand(len(location), -1).where(positive, float("inf"))
    smallest, box = area.min(dim=1)
    found = smallest < float("inf")
    labels = crowd.labels[box].where(found, -1)
    return Targets(labels, boxes_to_ltrb(location, crowd.boxes[box]))


METHODS: dict[str, Callable[[Crowd], Targets]] = {
    "TargetAssigner": assign_in_chunks,
    "all pairs at once": assign_all_at_once,
}


def peak_mb(device: str) -> float:
    """Peak memory of the allocator on a GPU, of this process on a CPU."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    return rss_mb("VmHWM")


def forget_peak(device: str) -> None:
    """Let the peak begin anew at what is held now; on a CPU Linux alone offers it."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    else:
        forget_peak_rss()


if __name__ == "__main__":
    sys.exit(main())
