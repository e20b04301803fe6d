"""Our backbones beside timm's on this CPU: `python -m benchmarks.studies.backbone_speed`.

Batch 1, fp32, one input, random weights, inference mode. timm's models run as they are and in
channels_last, which is faster on CPUs. The architectures need not be identical (timm's V-39 has
fewer squeeze-excitations), so times are also compared per GFLOP of convolution.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd
import timm
import torch
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn

from backbones.dla import DLA
from backbones.hrnet import HRNet
from backbones.vovnet import VoVNet
from benchmarks.studies.side_by_side import (
    Measure,
    call,
    conditions,
    medians,
    show,
    side_by_side,
    speedup,
)


@dataclass(frozen=True)
class Pair:
    """A backbone of ours and the timm model that it is compared with."""

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
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--height", type=int, default=512, help="of the input (%(default)s)")
    add("--width", type=int, default=640, help="of the input (%(default)s)")
    add("--threads", type=int, default=2, help="of torch (%(default)s)")
    add("--rounds", type=int, default=20, help="timed runs of each model (%(default)s)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    logging.getLogger("fvcore").setLevel(logging.ERROR)
    image = torch.rand(1, 3, options.height, options.width)
    rows = [row for pair in PAIRS for row in compare(pair, image, options.rounds)]
    title = f"{options.height}x{options.width}, batch 1, fp32"
    below = f"{conditions('cpu', options.rounds)}, timm {timm.__version__}"
    show(pd.DataFrame(rows), title, below)
    return 0


def compare(pair: Pair, image: Tensor, rounds: int) -> list[dict[str, str]]:
    """A row beside timm's model as it is, and one beside it in channels_last."""
    own, other = pair.ours().eval(), pair.theirs().eval()
    channels_last = pair.theirs().eval().to(memory_format=torch.channels_last)
    converted = image.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        gflops, other_gflops = convolutions(own, image), convolutions(other, image)
        contenders: dict[str, Measure] = {
            "own": lambda: call(own, image),
            "timm": lambda: call(other, image),
            "timm, channels_last": lambda: call(channels_last, converted),
        }
        frame = side_by_side(contenders, rounds, warmup=3)
    ms = 1e3 * medians(frame)["seconds"]
    return [
        {
            "backbone": pair.name,
            "beside": name,
            "GFLOP": f"{gflops:.1f}, {other_gflops:.1f}",
            "ms": f"{ms['own']:.0f}",
            "timm ms": f"{ms[name]:.0f}",
            "times as fast": speedup(frame, "own", over=name),
            "per GFLOP": f"{ms[name] / ms['own'] * gflops / other_gflops:.2f}",
        }
        for name in contenders
        if name != "own"
    ]


def convolutions(model: nn.Module, image: Tensor) -> float:
    """Multiply-adds of all convolutions, in 10^9."""
    return float(FlopCountAnalysis(model, image).by_operator()["conv"]) / 1e9


if __name__ == "__main__":
    raise SystemExit(main())
