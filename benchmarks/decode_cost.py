"""What decoding and NMS cost beside the network: `python -m benchmarks.decode_cost`.

An entry detects in one of the embedded photographs at its own test size, batch 1. Its weights are
random ones with a given number of candidates over the score threshold (`benchmarks.synthetic`): a
trained detector has about one or two thousand in a COCO image. A share is the median over the
rounds of the decoder's time by the network's in the same round.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

import zoo
from benchmarks import environment, pictures, subject, synthetic
from fcos import Detector

ENTRY = "FCOS_R_50_1x"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a row for every entry and number of candidates."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("names", nargs="*", default=[ENTRY], help=f"entries ({ENTRY})")
    add("--candidates", type=int, nargs="+", default=[2000, 5000], help="%(default)s")
    add("--rounds", type=int, default=5, help="%(default)s, after one that is not counted")
    add("--threads", type=int, default=2, help="%(default)s")
    add("--device", default="cpu", help="cpu or cuda (%(default)s)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    dataset = pictures.embedded()
    photo = pictures.read(dataset, pictures.image_ids(dataset, 1)[0]).image
    table = Table(title="decoding beside the network, batch 1, medians", title_justify="left")
    table.add_column(min_width=max(map(len, options.names)))
    for heading in ("candidates", "boxes", "network, ms", "decode, ms", "decode / network"):
        table.add_column(heading, justify="right")
    console = Console()
    cases = [(name, count) for name in options.names for count in options.candidates]
    for name, count in track(cases, "entries", console=console, disable=not console.is_terminal):
        detector = prepared(name, count, photo, options.device)
        table.add_row(name, str(count), *measure(detector, photo, options.rounds))
    console.print(table)
    facts = environment.describe(options.device)
    console.print(
        f"{facts['cpu']}, {options.threads} threads, torch {facts['torch']}", highlight=False
    )
    return 0


def prepared(name: str, candidates: int, photo: Tensor, device: str) -> Detector:
    """An entry with random weights that give so many candidates in a picture."""
    torch.manual_seed(0)
    detector = zoo.build(name).eval().to(device)
    synthetic.prepare(detector, [photo], candidates)
    return detector.to(memory_format=torch.channels_last)


@torch.inference_mode()
def measure(detector: Detector, photo: Tensor, rounds: int) -> list[str]:
    """Boxes found, milliseconds of the network and of decoding, and their ratio, as text."""
    steps = subject.stages(detector)
    network, decode, found = [], [], 0
    for number in range(rounds + 1):
        prepared_photo = steps["preprocess"]([photo])
        clock = [now(detector)]
        levels = steps["network"](prepared_photo)
        clock.append(now(detector))
        found = len(steps["decode"](levels)[0]["scores"])
        clock.append(now(detector))
        if number > 0:
            network.append(1e3 * (clock[1] - clock[0]))
            decode.append(1e3 * (clock[2] - clock[1]))
    share = statistics.median(d / n for d, n in zip(decode, network, strict=True))
    medians = [f"{statistics.median(times):.1f}" for times in (network, decode)]
    return [str(found), *medians, f"{share:.1%}"]


def now(detector: Detector) -> float:
    """Seconds, when all work is done."""
    if detector.head.cls_logits.weight.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    sys.exit(main())
