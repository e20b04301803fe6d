"""How often two measurements of one time agree within their stated noise, by processes of each.

fcos-zoo bench --suite quick --metrics latency --processes 12 --set budget=null --out repeat.jsonl
python -m benchmarks.studies.repeatability repeat.jsonl

The processes of a row are dealt out to two measurements at random, again and again; each is summed
up as `fcos-zoo bench` does it. Prints the share of pairs that agree, and the median noise of one.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import store
from benchmarks.inference import summarize

PAIRS = 1000


def agreement(processes: Sequence[np.ndarray], count: int, seed: int = 0) -> tuple[float, float]:
    """The share of pairs of measurements, of `count` processes each, that agree; their noise.

    Args:
        processes: seconds of (rounds, inputs) of each, at least twice `count`.
        count: processes of a measurement.
        seed: of the dealing.
    """
    dealer, agreed, noises = random.Random(seed), 0, []
    for _ in range(PAIRS):
        dealt = dealer.sample(list(processes), 2 * count)
        one, other = summarize(dealt[:count]), summarize(dealt[count:])
        noise = np.hypot(one["noise"], other["noise"])
        agreed += bool(abs(other["median"] / one["median"] - 1) <= noise)
        noises.append(one["noise"])
    return agreed / PAIRS, float(np.median(noises))


def main() -> None:
    """Print a line for each row of a results file that has enough processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results")
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4])
    options = parser.parse_args()
    table = Table("entry", "ms", "processes", *(f"{n} each" for n in options.counts))
    for row in store.newest(store.read([options.results])):
        if row["status"] != "measured" or row["cell"]["metric"] != "latency":
            continue
        processes = [np.array(runs) / 1e3 for runs in row["values"]["samples_ms"]]
        if len(processes) < 2 * max(options.counts):
            continue
        found = [agreement(processes, count) for count in options.counts]
        table.add_row(
            row["cell"]["entry"],
            f"{row['values']['median']:.1f}",
            str(len(processes)),
            *(f"{share:.1%} ± {noise:.3f}" for share, noise in found),
        )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
