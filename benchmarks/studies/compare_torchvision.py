"""FCOS_R_50_1x and torchvision's FCOS: `python -m benchmarks.studies.compare_torchvision`.

Both take a decoded 8-bit photograph to its boxes, batch 1, in one process and in alternating
rounds. The photograph is one that both resize to 800x1066 and pad to 800x1088. Models are compared
in the same layout and precision. A separate row has torchvision's default, fp32 in the contiguous
layout.

Without weights files both models are randomly initialised in the same way (see
`benchmarks.random_weights`): the norms have the photograph's statistics, boxes extend three strides
to each side, and the class biases let the same number of candidates pass each model's own score
threshold, so that both have as much decoding and NMS to do. torchvision's norms are then
`BatchNorm2d`, the faster of its two kinds.
"""

from __future__ import annotations

import copy
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

import zoo
from benchmarks import baselines, random_weights, workload
from benchmarks.dataset import embedded, read_images
from benchmarks.inference import time_on_cpu
from benchmarks.studies import side_by_side as study
from fcos import Detector, ShortestSide
from zoo.pretrained import DTYPES

ENTRY = "FCOS_R_50_1x"
SIZE = (800, 1333)
STAGES = ("seconds", "preprocess", "network", "decode")


def main() -> None:
    """Print a row for each contender."""
    parser = study.arguments(__doc__, rounds=7)
    add = parser.add_argument
    add("--size", type=int, nargs=2, default=SIZE, help="shortest and longest side (800 1333)")
    add("--no-bf16", action="store_true", help="skip bf16, which many CPUs only emulate")
    add("--weights", type=Path, help=f"checkpoint of {ENTRY}")
    add("--torchvision-weights", type=Path, help="state dict of fcos_resnet50_fpn")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size = shortest, longest = tuple(options.size)
    photo = photograph()
    ours = our_detector(options.weights, photo, "fp32", size)
    if file := options.torchvision_weights:
        theirs: Any = baselines.load_torchvision(file)
        theirs.transform.min_size, theirs.transform.max_size = (shortest,), longest
    else:
        theirs = baselines.randomized_torchvision(photo, size)
    channels_last = copy.deepcopy(theirs).to(memory_format=torch.channels_last)
    contenders = {
        "torchvision fp32, channels-last": partial(time_torchvision, channels_last, photo),
        "ours fp32, channels-last": partial(time_ours, ours, photo),
        "torchvision fp32, contiguous": partial(time_torchvision, theirs, photo),
    }
    if not options.no_bf16:
        half = our_detector(options.weights, photo, "bf16", size)
        contenders |= {
            "torchvision bf16, channels-last": partial(
                time_torchvision, channels_last, photo, torch.bfloat16
            ),
            "ours bf16, channels-last": partial(time_ours, half, photo),
        }
    with torch.inference_mode():
        frame = study.side_by_side(contenders, options.rounds)
    weights = "given" if options.weights else "random"
    height, width = ours.prepare([photo])[0].tensor.shape[-2:]
    title = f"Image to boxes, batch 1, {height}x{width}, {weights} weights, milliseconds"
    print(study.markdown(table(frame), title, study.conditions("cpu", options.rounds)))


def table(frame: pd.DataFrame) -> list[dict[str, str]]:
    """Return median milliseconds by stage, and our speedup in the same layout and precision."""
    rows = []
    for name, times in study.medians(frame).to_dict("index").items():
        row = {"": str(name), "total": f"{1e3 * times['seconds']:.0f}"}
        row |= {stage: f"{1e3 * times[stage]:.1f}" for stage in STAGES[1:]}
        other = row[""].replace("ours", "torchvision")
        faster = study.speedup(frame, row[""], other) if other != row[""] else "-"
        rows.append({**row, "times as fast as torchvision": faster})
    return rows


def photograph() -> Tensor:
    """Return the first embedded photograph that is resized to 800x1066 and padded to 800x1088."""
    photos = read_images(embedded())
    return next(image for image in photos if 4 * image.shape[-2] == 3 * image.shape[-1])


def our_detector(
    weights: Path | None, photo: Tensor, precision: str, size: tuple[int, int] = SIZE
) -> Detector:
    """Load FCOS_R_50_1x in a precision, with a checkpoint or random weights."""
    torch.manual_seed(0)
    detector = zoo.build(ENTRY).eval()
    detector.resize = ShortestSide(*size)
    if weights is not None:
        zoo.load_checkpoint(detector, weights)
    else:
        random_weights.randomize(detector, [photo])
    return detector.fuse().to(dtype=DTYPES[precision]).to(memory_format=torch.channels_last)


def time_ours(detector: Detector, photo: Tensor) -> dict[str, float]:
    """Return the seconds of one run, by stage."""
    return dict(zip(STAGES, time_on_cpu(workload.stages(detector), [photo]), strict=True))


def time_torchvision(
    model: nn.Module, photo: Tensor, dtype: torch.dtype | None = None
) -> dict[str, float]:
    """Do the same for torchvision's model, whose network is from backbone to head.

    With a `dtype` it runs under autocast, as its box coder needs fp32.
    """
    clock = [time.perf_counter()]

    def note(*_: object) -> None:
        clock.append(time.perf_counter())

    hooks = (
        model.get_submodule("backbone").register_forward_pre_hook(note),
        model.get_submodule("head").register_forward_hook(note),
    )
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        model([photo.float() / 255])
    note()
    for hook in hooks:
        hook.remove()
    times = (clock[-1] - clock[0], *(end - start for start, end in pairwise(clock)))
    return dict(zip(STAGES, times, strict=True))


if __name__ == "__main__":
    main()
