"""How often two measurements of one time agree within their stated noise, by processes of each.

fcos-zoo bench --suite quick --metrics latency --processes 12 --set budget=null --out repeat.jsonl
python -m benchmarks.studies.repeatability repeat.jsonl

The processes of a row are dealt out to two measurements at random, again and again; each is summed
up as `fcos-zoo bench` does it. Prints the share of pairs that agree ± the median noise of one.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence

import numpy as np
import pandas as pd

from benchmarks import store
from benchmarks.studies.side_by_side import show
from benchmarks.timing import summarize

PAIRS = 1000
COUNTS = (1, 2, 4)  # processes of a measurement


def agreement(processes: Sequence[np.ndarray], count: int) -> str:
    """The share of pairs of measurements, of `count` processes each, that agree; their noise.

    Args:
        processes: seconds of (rounds, inputs) of each, at least twice `count`.
        count: processes of a measurement.
    """
    dealer, agreed, noises = random.Random(0), 0, []
    for _ in range(PAIRS):
        dealt = dealer.sample(list(processes), 2 * count)
        one, other = summarize(dealt[:count]), summarize(dealt[count:])
        noise = np.hypot(one["noise"], other["noise"])
        agreed += bool(abs(other["median"] / one["median"] - 1) <= noise)
        noises.append(one["noise"])
    return f"{agreed / PAIRS:.1%} ± {np.median(noises):.3f}"


def main(path: str) -> None:
    """Print a line for each row of a results file that has enough processes."""
    rows = []
    for row in store.newest(store.read([path])):
        values = row["values"]
        processes = [np.array(runs) / 1e3 for runs in values.get("samples_ms", ())]
        if row["cell"]["metric"] == "latency" and len(processes) >= 2 * max(COUNTS):
            facts = {
                "entry": row["cell"]["entry"],
                "ms": f"{values['median']:.1f}",
                "processes": len(processes),
            }
            rows.append({**facts, **{f"{n} each": agreement(processes, n) for n in COUNTS}})
    show(pd.DataFrame(rows), "Pairs of measurements that agree within their noise", "")


if __name__ == "__main__":
    main(sys.argv[1])
