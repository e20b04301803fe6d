"""Our backbones beside timm's on this CPU: `python -m benchmarks.studies.backbone_speed`.

Batch 1, fp32, one input, random weights, inference mode. The models take turns, so that whatever
else the machine does falls on all of them alike; a ratio is the median over the rounds of ours by
timm's in the same round. timm runs as it comes and in channels_last, which suits CPUs better. The
arithmetic need not be the same (timm's V-39 has fewer squeeze-excitations), so the times are
compared per GFLOP of convolution too.
"""

from __future__ import annotations

import argparse
import logging
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import timm
import torch
from fvcore.nn import FlopCountAnalysis
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from backbones.dla import DLA
from backbones.hrnet import HRNet
from backbones.vovnet import VoVNet

WARMUP = 3


@dataclass(frozen=True)
class Pair:
    """A backbone of ours and the timm model it is held against."""

    name: str
    ours: Callable[[], nn.Module]
    theirs: Callable[[], nn.Module]


PAIRS = (
    Pair(
        "HRNetV2-W32",
        lambda: HRNet(32),
        # Without "incre", the part of the classifier that timm adds to the features.
        lambda: timm.create_model("hrnet_w32", features_only=True, feature_location=""),
    ),
    Pair(
        "VoVNet-39 eSE",
        lambda: VoVNet(ese=True),
        lambda: timm.create_model("ese_vovnet39b", features_only=True),
    ),
    Pair("DLA-34", DLA, lambda: timm.create_model("dla34", features_only=True)),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every pair and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.backbone_speed",
        description="Our backbones beside timm's on this CPU.",
    )
    parser.add_argument("--height", type=int, default=512, help="of the input (512)")
    parser.add_argument("--width", type=int, default=640, help="of the input (640)")
    parser.add_argument("--threads", type=int, default=2, help="of torch (2)")
    parser.add_argument("--rounds", type=int, default=20, help="timed runs of each model (20)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    logging.getLogger("fvcore").setLevel(logging.ERROR)
    image = torch.rand(1, 3, options.height, options.width)

    table = Table(
        "backbone",
        "against",
        "GFLOP",
        "ms",
        "timm ms",
        "ratio",
        "per GFLOP",
        title=f"Our time / timm's, {options.height}x{options.width}, batch 1, fp32",
        caption=f"medians of {options.rounds} rounds, {options.threads} threads, "
        f"{platform.machine()}, torch {torch.__version__}, timm {timm.__version__}",
    )
    console = Console()
    for pair in PAIRS:
        for row in compare(pair, image, options.rounds, console):
            table.add_row(*row)
        table.add_section()
    console.print(table)
    return 0


def compare(pair: Pair, image: Tensor, rounds: int, console: Console) -> list[list[str]]:
    """One row against timm as it comes, one against timm in channels_last."""
    ours, theirs = pair.ours().eval(), pair.theirs().eval()
    nhwc = pair.theirs().eval().to(memory_format=torch.channels_last)
    nhwc_image = image.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        gflops, their_gflops = convolutions(ours, image), convolutions(theirs, image)
        times, *others = alternate(
            [lambda: ours(image), lambda: theirs(image), lambda: nhwc(nhwc_image)],
            rounds,
            pair.name,
            console,
        )
    rows = []
    for against, their_times in zip(("timm", "timm, NHWC"), others, strict=True):
        ratio = statistics.median(a / b for a, b in zip(times, their_times, strict=True))
        rows.append(
            [
                pair.name,
                against,
                f"{gflops:.1f}, {their_gflops:.1f}",
                f"{statistics.median(times):.0f}",
                f"{statistics.median(their_times):.0f}",
                f"{ratio:.2f}",
                f"{ratio * their_gflops / gflops:.2f}",
            ]
        )
    return rows


def convolutions(model: nn.Module, image: Tensor) -> float:
    """Multiply-adds of all convolutions, in 10^9."""
    return float(FlopCountAnalysis(model, image).by_operator()["conv"]) / 1e9


def alternate(
    calls: Sequence[Callable[[], object]], rounds: int, description: str, console: Console
) -> list[list[float]]:
    """Milliseconds of each call in each round, the calls taking turns."""
    times: list[list[float]] = [[] for _ in calls]
    steps = track(
        range(WARMUP + rounds), description, console=console, disable=not console.is_terminal
    )
    for step in steps:
        for call, measured in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            if step >= WARMUP:
                measured.append(1000 * (time.perf_counter() - start))
    return times


if __name__ == "__main__":
    raise SystemExit(main())
