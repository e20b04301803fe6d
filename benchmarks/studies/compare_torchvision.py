"""Our FCOS_R_50_1x beside torchvision's FCOS: `python -m benchmarks.studies.compare_torchvision`.

Both take a decoded 8-bit photograph to its boxes, batch 1, in one process and in turns, so that
whatever else the machine does falls on all alike. torchvision's runs as it comes, in channels_last,
which suits CPUs better, and in that by autocast to bf16. The photograph is one that both resize to
800x1066 and pad to 800x1088. A ratio is the median over the rounds of theirs, as it comes, by
another's in the same round.

Without weights files both are randomly initialised in the same way, as `benchmarks.random_weights`
says: norms with the photograph's statistics, boxes of six strides, and class biases at which the
same number of candidates passes each one's own score threshold, so that both have the same
amount of decoding and NMS to do. torchvision's norms are then `BatchNorm2d`, the faster of its two
kinds.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torchvision.ops import box_iou

import zoo
from benchmarks import baselines, environment, random_weights, workload
from benchmarks.dataset import embedded, read_images
from fcos import Detector
from zoo.pretrained import DTYPES

ENTRY = "FCOS_R_50_1x"
INPUT = (800, 1088)
STAGES = ("total", "preprocess", "network", "decode")
WIDE = 130  # characters of a table in a file
Times = dict[str, float]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the two tables: times with their ratios, and what bf16 does to the scores."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    console = Console(width=None if sys.stdout.isatty() else WIDE)
    photos = read_images(embedded())
    ours, half = (our_detector(options.weights, photos, p) for p in ("fp32", "bf16"))
    photo = next(image for image in photos if _input_size(ours, image) == INPUT)
    file = options.torchvision_weights
    theirs = baselines.load_torchvision(file) if file else baselines.randomized_torchvision(photo)
    nhwc = copy.deepcopy(theirs).to(memory_format=torch.channels_last)
    contenders: dict[str, Callable[[], Times]] = {
        "torchvision fp32": lambda: time_theirs(theirs, photo),
        "torchvision fp32, NHWC": lambda: time_theirs(nhwc, photo),
        "ours fp32": lambda: time_ours(ours, photo),
        "torchvision bf16, NHWC": lambda: time_theirs(nhwc, photo, torch.bfloat16),
        "ours bf16": lambda: time_ours(half, photo),
    }
    rounds: list[dict[str, Times]] = []
    with torch.inference_mode():
        for number in track(
            range(options.warmup + options.rounds),
            "rounds",
            console=console,
            disable=not console.is_terminal,
        ):
            taken = {name: run() for name, run in contenders.items()}
            if number >= options.warmup:
                rounds.append(taken)
    console.print(times_table(rounds))
    facts = environment.describe("cpu")
    console.print(
        f"{facts['cpu']}, {torch.get_num_threads()} threads, torch {facts['torch']}, torchvision "
        f"{facts['torchvision']}, {options.rounds} rounds, "
        f"{'random' if options.weights is None else 'given'} weights, load "
        f"{environment.state('cpu').get('load')}",
        highlight=False,
    )
    if options.images:
        console.print(score_difference(ours, half, photos[: options.images]), highlight=False)
    return 0


def our_detector(weights: Path | None, photos: Sequence[Tensor], precision: str) -> Detector:
    """FCOS_R_50_1x in a precision, with a checkpoint or with random weights."""
    torch.manual_seed(0)
    detector = zoo.build(ENTRY).eval()
    if weights is not None:
        zoo.load_checkpoint(detector, weights)
    else:
        fitting = [image for image in photos if _input_size(detector, image) == INPUT]
        random_weights.randomize(detector, fitting[:1])
    return detector.to(dtype=DTYPES[precision]).to(memory_format=torch.channels_last)


def time_ours(detector: Detector, photo: Tensor) -> Times:
    """Seconds of one run, by stage."""
    clock = [time.perf_counter()]
    item: Any = [photo]
    for stage in workload.stages(detector).values():
        item = stage(item)
        clock.append(time.perf_counter())
    spans = [clock[-1] - clock[0], *(b - a for a, b in pairwise(clock))]
    return dict(zip(STAGES, spans, strict=True))


def time_theirs(model: nn.Module, photo: Tensor, dtype: torch.dtype | None = None) -> Times:
    """The same of torchvision's model, read off where its backbone begins and its head ends; with a
    `dtype` by autocast, as its box coder needs fp32."""
    clock = []
    hooks = [
        model.get_submodule("backbone").register_forward_pre_hook(
            lambda *_: clock.append(time.perf_counter())
        ),
        model.get_submodule("head").register_forward_hook(
            lambda *_: clock.append(time.perf_counter())
        ),
    ]
    start = time.perf_counter()
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        model([photo.float() / 255])
    end = time.perf_counter()
    for hook in hooks:
        hook.remove()
    spans = (end - start, clock[0] - start, clock[1] - clock[0], end - clock[1])
    return dict(zip(STAGES, spans, strict=True))


def times_table(rounds: Sequence[dict[str, Times]]) -> Table:
    """Medians by stage, and the ratios of the totals round by round."""
    table = Table(title="image to boxes, batch 1, 800x1088, milliseconds", title_justify="left")
    for heading in ("", *STAGES, "decode / network", "times as fast"):
        table.add_column(heading, justify="right" if heading else "left")
    first = next(iter(rounds[0]))
    for name in rounds[0]:
        medians = {stage: statistics.median(r[name][stage] for r in rounds) for stage in STAGES}
        share = statistics.median(r[name]["decode"] / r[name]["network"] for r in rounds)
        ratios = [r[first]["total"] / r[name]["total"] for r in rounds]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        figures = [f"{1e3 * medians[stage]:.1f}" for stage in STAGES]
        table.add_row(name, *figures, f"{share:.1%}", spread)
    return table


def score_difference(full: Detector, half: Detector, photos: Sequence[Tensor]) -> str:
    """What bf16 changes: fp32's detections matched by class and IoU over 0.5, best first."""
    differences: list[float] = []
    total = 0
    for photo in photos:
        ours, theirs = full.detect(photo)[0], half.detect(photo)[0]
        total += len(ours)
        overlap = box_iou(ours.boxes, theirs.boxes)
        overlap *= ours.labels[:, None] == theirs.labels[None]
        for i in range(len(ours)):
            if not len(theirs) or float(overlap[i].max()) < 0.5:
                continue
            j = int(overlap[i].argmax())
            overlap[:, j] = 0
            differences.append(abs(float(ours.scores[i] - theirs.scores[j])))
    if not differences:
        return f"bf16: none of {total} detections matched"
    return (
        f"bf16 against fp32 on {len(photos)} embedded images: {len(differences)} of {total} "
        f"detections matched, scores differ by {statistics.mean(differences):.4f} on average, "
        f"{statistics.median(differences):.4f} in the median, {max(differences):.4f} at most"
    )


def _input_size(detector: Detector, image: Tensor) -> tuple[int, ...]:
    height, width = detector.resize(image.shape[-2], image.shape[-1])
    divisor = detector.normalizer.divisor
    return -(-height // divisor) * divisor, -(-width // divisor) * divisor


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--rounds", type=int, default=7, help="timed turns of each (%(default)s)")
    add("--warmup", type=int, default=2, help="turns before them (%(default)s)")
    add("--threads", type=int, default=2, help="%(default)s")
    add("--images", type=int, default=8, help="embedded images for bf16's scores (%(default)s)")
    add("--weights", type=Path, help=f"checkpoint of {ENTRY}")
    add("--torchvision-weights", type=Path, help="state dict of fcos_resnet50_fpn")
    return parser


if __name__ == "__main__":
    sys.exit(main())
