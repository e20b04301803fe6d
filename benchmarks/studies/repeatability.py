"""How often two measurements of a time agree within their noise, by number of processes.

    fcos-zoo bench --suite quick --metrics latency --processes 12 --set budget=null --out r.jsonl
    python -m benchmarks.studies.repeatability r.jsonl

The processes of each row are divided at random, many times, into two measurements, which are
summarised as in `fcos-zoo bench`. A cell has the share of pairs that agree, and the median noise of
a measurement.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence

import numpy as np

from benchmarks import store
from benchmarks.inference import summarize
from benchmarks.studies.side_by_side import markdown

PAIRS = 1000


def agreement(processes: Sequence[np.ndarray], count: int) -> tuple[float, float]:
    """Return the share of pairs of measurements that agree, and their median noise.

    Args:
        processes: the seconds (rounds, inputs) of each process; at least twice `count` processes,
            with three rounds in every `count` of them, as fewer rounds have no noise.
        count: the number of processes per measurement.
    """
    generator, agreed, noises = random.Random(0), 0, []
    for _ in range(PAIRS):
        chosen = generator.sample(list(processes), 2 * count)
        one, other = summarize(chosen[:count]), summarize(chosen[count:])
        noise = np.hypot(one["noise"], other["noise"])
        agreed += bool(abs(other["median"] / one["median"] - 1) <= noise)
        noises.append(one["noise"])
    return agreed / PAIRS, float(np.median(noises))


def main() -> None:
    """Print a line for each row of a results file that has enough processes and rounds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("results")
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4])
    options = parser.parse_args()
    lines = []
    for row in store.newest(store.read([options.results])):
        if row["status"] != "measured" or row["cell"]["metric"] != "latency":
            continue
        processes = [np.array(runs) / 1e3 for runs in row["values"]["samples_ms"]]
        rounds = min(map(len, processes)) * min(options.counts)
        if len(processes) < 2 * max(options.counts) or rounds < 3:
            continue
        line = {"entry": row["cell"]["entry"], "ms": f"{row['values']['median']:.1f}"}
        line["processes"] = str(len(processes))
        for count in options.counts:
            share, noise = agreement(processes, count)
            line[f"{count} each"] = f"{share:.1%} ± {noise:.3f}"
        lines.append(line)
    if not lines:
        raise SystemExit(f"{options.results} has no latency of enough processes and rounds")
    print(markdown(lines, "Share of pairs that agree ± noise, by processes of a measurement"))


if __name__ == "__main__":
    main()
