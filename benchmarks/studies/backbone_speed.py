"""Our backbones compared with timm's on this CPU: `python -m benchmarks.studies.backbone_speed`.

Batch 1, fp32, one input, random weights, inference mode. timm's models run in their default layout
and in channels_last, which is faster on CPUs. Some architectures differ (timm's V-39 has fewer
squeeze-excitations), so times are also compared per GFLOP of convolution.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from functools import partial

import timm
import torch
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn

from backbones.dla import DLA
from backbones.hrnet import HRNet
from backbones.vovnet import VoVNet
from benchmarks.studies import side_by_side as study

timm_features = partial(timm.create_model, features_only=True)
Build = Callable[[], nn.Module]
PAIRS: dict[str, tuple[Build, Build]] = {  # a backbone of ours and timm's
    # Without "incre", the part of the classifier that timm adds to the features.
    "HRNetV2-W32": (partial(HRNet, 32), partial(timm_features, "hrnet_w32", feature_location="")),
    "VoVNet-39 eSE": (partial(VoVNet, ese=True), partial(timm_features, "ese_vovnet39b")),
    "DLA-34": (DLA, partial(timm_features, "dla34")),
}


def main() -> None:
    """Measure every pair and print the table."""
    parser = study.arguments(__doc__, rounds=20)
    parser.add_argument("--size", type=int, nargs=2, default=(512, 640), help="height and width")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.getLogger("fvcore").setLevel(logging.ERROR)
    height, width = options.size
    image = torch.rand(1, 3, height, width)
    rows = [
        row
        for name, (ours, theirs) in PAIRS.items()
        for row in compare(name, ours(), theirs(), image, options.rounds)
    ]
    below = f"{study.conditions('cpu', options.rounds)}, timm {timm.__version__}"
    print(study.markdown(rows, f"{height}x{width}, batch 1, fp32", below))


def compare(
    name: str, ours: nn.Module, theirs: nn.Module, image: Tensor, rounds: int
) -> list[dict[str, str]]:
    """Compare with timm's model in its default layout, and in channels_last."""
    ours, theirs = ours.eval(), theirs.eval()
    channels_last = copy.deepcopy(theirs).to(memory_format=torch.channels_last)
    converted = image.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        gflops, timm_gflops = (convolutions(model, image) for model in (ours, theirs))
        contenders = {
            "own": partial(ours, image),
            "timm": partial(theirs, image),
            "timm, channels_last": partial(channels_last, converted),
        }
        frame = study.side_by_side(contenders, rounds, warmup=3)
    ms = 1e3 * study.medians(frame)["seconds"]
    return [
        {
            "backbone": name,
            "compared with": other,
            "GFLOP": f"{gflops:.1f}, {timm_gflops:.1f}",
            "ms": f"{ms['own']:.0f}",
            "timm ms": f"{ms[other]:.0f}",
            "times as fast": study.speedup(frame, "own", over=other),
            "per GFLOP": f"{ms[other] / ms['own'] * gflops / timm_gflops:.2f}",
        }
        for other in ("timm", "timm, channels_last")
    ]


def convolutions(model: nn.Module, image: Tensor) -> float:
    """Return the multiply-adds of all convolutions, in 10^9."""
    return float(FlopCountAnalysis(model, image).by_operator()["conv"]) / 1e9


if __name__ == "__main__":
    main()
