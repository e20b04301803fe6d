"""How long does `zoo.get` take the first time, and how long once its tensors are kept converted?

    python -m benchmarks.load_time FCOS_R_50_1x

Each round times three ways in a process of its own: `zoo.build` and `zoo.load_checkpoint`, which
initialises all tensors and then copies others over them; the first `zoo.get` on a file in the
cache, which also writes the converted copy; and the second one, which maps that copy into memory.
Imports are not counted, and the files are in the page cache.
Without `--checkpoint` the weights are drawn: an architecture's own initialisation.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import zoo

WAYS = ("build and load", "first get", "second get")
TIMED = """
import sys, time
import torch
import zoo
entry, way, path = sys.argv[1:]
zoo.card(entry)
begin = time.perf_counter()
if way == "build and load":
    detector = zoo.build(entry)
    zoo.load_checkpoint(detector, path)
    detector.eval().to(memory_format=torch.channels_last)
else:
    zoo.get(entry)
print(time.perf_counter() - begin)
"""


def measure(entry: str, way: str, home: Path, checkpoint: Path) -> float:
    """Seconds of one load in a fresh process."""
    environment = {**os.environ, "FCOS_ZOO_HOME": str(home), "FCOS_ZOO_OFFLINE": "1"}
    environment["FCOS_ZOO_MIRRORS"] = str(checkpoint.parent)
    command = [sys.executable, "-c", TIMED, entry, way, str(checkpoint)]
    printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return float(printed.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("entry", nargs="?", default="FCOS_R_50_1x")
    parser.add_argument("--checkpoint", type=Path, help="the published file")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each (%(default)s)")
    arguments = parser.parse_args()
    card = zoo.card(arguments.entry)
    if card.filename is None:
        raise SystemExit(f"{card.name} has no published file to load")
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        home, checkpoint = Path(folder) / "home", Path(folder) / "mirror" / card.filename
        checkpoint.parent.mkdir()
        if arguments.checkpoint:
            shutil.copy(arguments.checkpoint, checkpoint)
        else:
            torch.save({"model": zoo.build(card.name).state_dict()}, checkpoint)
        measure(card.name, "first get", home, checkpoint)  # copies the file into the cache
        for _ in track(range(arguments.rounds), console=Console(stderr=True)):
            for copy in home.rglob("*.converted.safetensors"):
                copy.unlink()
            for way in WAYS:
                found[way].append(measure(card.name, way, home, checkpoint))
        size = checkpoint.stat().st_size / 2**20

    table = Table("way", "median s", "least s", title=f"{card.name}, {size:.0f} MiB")
    for way, seconds in found.items():
        table.add_row(way, f"{statistics.median(seconds):.3f}", f"{min(seconds):.3f}")
    console = Console()
    console.print(table)
    console.print(
        f"{arguments.rounds} rounds, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
