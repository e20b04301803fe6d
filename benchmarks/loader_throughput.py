"""How much of plain decoding and resizing does the training loader keep?

    python -m benchmarks.loader_throughput --workers 2

Both sides read the embedded photographs with the same number of processes and resize them to a
shorter side of 800 pixels. The one only decodes and resizes with Pillow and throws the result away;
the other is the whole loader of a training run: dataset, targets, flip, batches handed to the main
process. Rounds of the two alternate, so that other load on the machine falls on both.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Iterator
from itertools import islice
from multiprocessing import get_context
from multiprocessing.pool import Pool
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from fcos.data.coco import CocoDataset
from fcos.data.handover import keep_freed_memory
from fcos.data.loader import Batch, Loader
from fcos.data.sampler import TrainingSampler
from fcos.data.transforms import Compose, HorizontalFlip, ResizeShortestSide
from fcos.images import ShortestSide

EMBEDDED = Path(__file__).parent / "data" / "coco_val_ccby"
BATCH = 4


def decode_and_resize(path: str) -> tuple[int, ...]:
    """The least that any loader has to do with an image."""
    with Image.open(path) as file:
        image = file if file.mode == "RGB" else file.convert("RGB")
        height, width = ShortestSide(800, 1333)(image.height, image.width)
        return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)).shape


def time_alone(pool: Pool, files: list[str], images: int) -> float:
    """Images a second of decoding and resizing alone."""
    work = [files[i % len(files)] for i in range(images)]
    start = time.perf_counter()
    for _ in pool.imap_unordered(decode_and_resize, work, chunksize=BATCH):
        pass
    return images / (time.perf_counter() - start)


def time_loader(batches: Iterator[Batch], images: int) -> float:
    """Images a second that reach the training process."""
    start = time.perf_counter()
    read = sum(len(batch) for batch, _ in islice(batches, images // BATCH))
    return read / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2, help="reading processes (%(default)s)")
    parser.add_argument("--images", type=int, default=248, help="images a round (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each (%(default)s)")
    arguments = parser.parse_args()

    dataset = CocoDataset(EMBEDDED / "annotations.json", EMBEDDED / "images", keep_empty=True)
    keep_freed_memory()  # in the processes of both sides
    transforms = Compose([HorizontalFlip(), ResizeShortestSide((800,), 1333)])
    rows = []
    for _ in range(arguments.rounds):
        with get_context("fork").Pool(arguments.workers) as pool:
            time_alone(pool, dataset.files, len(dataset))
            alone = time_alone(pool, dataset.files, arguments.images)
        sampler = TrainingSampler(dataset.portrait, BATCH, seed=0)
        batches = iter(Loader(dataset, sampler, transforms, arguments.workers))
        time_loader(batches, len(dataset))
        rows.append((alone, time_loader(batches, arguments.images)))
        del batches

    table = Table(title="images a second")
    for column in ("round", "decode + resize alone", "loader", "loader / alone"):
        table.add_column(column, justify="right")
    for number, (alone, loaded) in enumerate(rows, 1):
        table.add_row(str(number), f"{alone:.1f}", f"{loaded:.1f}", f"{loaded / alone:.1%}")
    medians = [statistics.median(column) for column in zip(*rows, strict=True)]
    ratio = statistics.median(loaded / alone for alone, loaded in rows)
    table.add_row("median", *(f"{median:.1f}" for median in medians), f"{ratio:.1%}")
    console = Console()
    console.print(table)
    console.print(
        f"{arguments.workers} workers, {os.cpu_count()} cores, {arguments.images} images a round, "
        f"Python {platform.python_version()}, torch {torch.__version__}, Pillow {PIL.__version__}"
    )


if __name__ == "__main__":
    main()
