"""How much of plain decoding and resizing does the training loader keep?

    python -m benchmarks.loader_throughput --workers 2

Both sides read the embedded photographs with the same number of processes and resize them to a
shorter side of 800 pixels. The one only decodes and resizes with Pillow and throws the result away;
the other is the whole loader of a training run: dataset, targets, flip, batches handed to the main
process. Rounds of the two alternate, so that other load on the machine falls on both; processor
time an image, of all processes together, tells the two apart even so.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from fcos.data.coco import CocoDataset
from fcos.data.dataset import DetectionDataset
from fcos.data.handover import keep_freed_memory
from fcos.data.loader import Loader
from fcos.data.sampler import TrainingSampler
from fcos.data.transforms import Compose, HorizontalFlip, ResizeShortestSide
from fcos.preprocess import ShortestSide

EMBEDDED = Path(__file__).parent / "data" / "coco_val_ccby"
BATCH = 4


def decode_and_resize(path: str) -> tuple[int, ...]:
    """The least that any loader has to do with an image."""
    with Image.open(path) as file:
        image = file if file.mode == "RGB" else file.convert("RGB")
        height, width = ShortestSide(800, 1333)(image.height, image.width)
        return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)).shape


def alone(dataset: DetectionDataset, workers: int, images: int) -> Iterator[int]:
    """Decode and resize in `workers` processes; yields the number of images that are done."""
    work = islice(cycle(dataset.files), images)
    with get_context("fork").Pool(workers) as pool:
        for _ in pool.imap_unordered(decode_and_resize, work, chunksize=BATCH):
            yield 1
        pool.close()
        pool.join()


def loader(dataset: DetectionDataset, workers: int, images: int) -> Iterator[int]:
    """Load training batches; yields the number of images that reached this process."""
    batches = islice(TrainingSampler(dataset.portrait, BATCH, seed=0), images // BATCH)
    transforms = Compose([HorizontalFlip(), ResizeShortestSide((800,), 1333)])
    for batch, _ in Loader(dataset, batches, transforms, workers, views=True):
        yield len(batch)


def cpu_seconds() -> float:
    """Processor time of this process and of those that it started and that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def measure(work: Iterator[int], warm_up: int, images: int) -> tuple[float, float]:
    """Images a second after the warm-up, and milliseconds of processor time an image in all."""
    cpu = cpu_seconds()
    done = 0
    while done < warm_up:
        done += next(work)
    start = time.perf_counter()
    done += sum(work)
    elapsed = time.perf_counter() - start
    return images / elapsed, (cpu_seconds() - cpu) * 1000 / done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2, help="reading processes (%(default)s)")
    parser.add_argument("--images", type=int, default=496, help="images a round (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each (%(default)s)")
    arguments = parser.parse_args()

    dataset = CocoDataset(EMBEDDED / "annotations.json", EMBEDDED / "images", keep_empty=True)
    keep_freed_memory()  # in the processes of both sides
    warm_up = 32 * arguments.workers  # by then all memory of both sides has been used once
    total = warm_up + arguments.images
    columns = ["alone: images/s", "CPU ms/image", "loader: images/s", "CPU ms/image"]
    table = Table("round", *columns, "throughput", "CPU", title="decode + resize alone, and loader")
    rows = []
    for number in range(1, arguments.rounds + 1):
        base = measure(alone(dataset, arguments.workers, total), warm_up, arguments.images)
        ours = measure(loader(dataset, arguments.workers, total), warm_up, arguments.images)
        rows.append((*base, *ours, ours[0] / base[0], base[1] / ours[1]))
        add(table, str(number), rows[-1])
    add(table, "median", tuple(map(statistics.median, zip(*rows, strict=True))))
    console = Console()
    console.print(table)
    console.print(
        f"{arguments.workers} workers, {os.cpu_count()} cores, {arguments.images} images a round\n"
        f"Python {platform.python_version()}, torch {torch.__version__}, Pillow {PIL.__version__}"
    )


def add(table: Table, name: str, row: Sequence[float]) -> None:
    numbers = [f"{value:.1f}" for value in row[:4]] + [f"{value:.0%}" for value in row[4:]]
    table.add_row(name, *numbers)


if __name__ == "__main__":
    main()
