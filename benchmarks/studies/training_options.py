"""What each option of training does to speed, memory and loss.

    python -m benchmarks.studies.training_options --out reports/training_options

Each option is a run of `fcos-zoo train` in its own process, with the same entry, the same starting
weights and, step by step, the same batches of embedded photographs of one size, so that the loss
curves of all options can be compared. The first round has all steps; shorter rounds follow, which
only measure the speed. In each round the options run one after the other, so that other load on the
machine affects all of them. A ratio is the median over the rounds of an option's speed divided by
that of fp32 in the same round.

The starting weights are random, and the norms have the statistics of a photograph. On a CPU the
memory is the peak of the (first) process, including torch itself.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track

import zoo
from benchmarks import environment
from benchmarks.dataset import EMBEDDED, embedded, read_images
from benchmarks.random_weights import calibrate_batchnorm
from fcos.data.annotations import load_annotations
from fcos.train.checkpoint import release
from fcos.train.metrics import read

HEADER = """\
# What each option of training does

Each row is a run of `fcos-zoo train` in its own process, from the same weights and on the same
batches. `python -m benchmarks.studies.training_options` wrote this page; its docstring describes
the protocol. "Times as fast" is the median over alternating rounds, with the range. Options that
compute the same function differ by rounding, which training magnifies; a difference of zero means
equal to the bit. fp16 is left out on a CPU, which only emulates it.

![Loss by step, and its distance from that of plain fp32](training_options.png)
"""
BASE = "fp32"
OPTIONS: dict[str, tuple[str, ...]] = {
    BASE: (),
    "channels_last": ("solver.channels_last=true",),
    "fused optimizer": ("solver.fused_optimizer=true",),
    "bf16": ("solver.precision=bf16",),
    "bf16 + channels_last": ("solver.precision=bf16", "solver.channels_last=true"),
    "fp16": ("solver.precision=fp16",),
    "recompute": ("solver.activation_checkpointing=true",),
    "accumulate in 2 parts": ("solver.accumulate=2",),
    "moving average": ("solver.ema=0.999",),
    "compile": ("solver.compile=true",),
    "2 processes": (),
}
PROCESSES = {"2 processes": 2}
EQUAL = 1e-9  # at which a difference of zero is drawn
SETTLING = 3  # first steps, not counted in the speed because of caches and compilation


@dataclass(frozen=True)
class Run:
    """The records of one training run; `failed` is its last line if it failed."""

    losses: tuple[float, ...] = ()
    images_per_second: float = 0.0
    memory_mib: int = 0
    failed: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every option in each round, and write the table and the curves."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--entry", default="FCOS_R_50_1x")
    add("--steps", type=int, default=50, help="steps of the first round (%(default)s)")
    add("--rounds", type=int, default=3, help="%(default)s")
    add("--short", type=int, default=10, help="steps of the other rounds (%(default)s)")
    add("--batch", type=int, default=4, help="images per step (%(default)s)")
    add("--size", type=int, nargs=2, default=(256, 427), help="shortest and longest side")
    # A CPU emulates fp16, which would take hours, so there it is run only if it is named.
    usual = [name for name in OPTIONS if name != "fp16" or torch.cuda.is_available()]
    add("--options", nargs="+", choices=OPTIONS, default=usual, metavar="OPTION")
    add("--out", type=Path, help="write OUT.md and OUT.png")
    options = parser.parse_args(arguments)
    console = Console()
    wanted = list(dict.fromkeys([BASE, *options.options]))
    order = [(number, name) for number in range(options.rounds) for name in wanted]
    rounds: list[dict[str, Run]] = [{} for _ in range(options.rounds)]
    with tempfile.TemporaryDirectory() as folder:
        weights = starting_weights(options.entry, Path(folder) / "start.pth")
        annotations = photographs_of_one_size(Path(folder) / "annotations.json")
        for run, (number, name) in enumerate(
            track(order, "runs", console=console, disable=not console.is_terminal)
        ):
            rounds[number][name] = train(
                options.entry,
                (
                    f"data.train={annotations}",
                    f"data.train_images={EMBEDDED / 'images'}",
                    f"init.checkpoint={weights}",
                    f"run.folder={folder}/{run}",
                    f"schedule.iterations={options.short if number else options.steps}",
                    "schedule.steps=[]",
                    f"solver.batch={options.batch}",
                    f"solver.base_lr={0.01 * options.batch / 16}",
                    "solver.warmup.iterations=10",
                    f"augmentation.shortest=[{options.size[0]}]",
                    f"augmentation.longest={options.size[1]}",
                    *OPTIONS[name],
                ),
                PROCESSES.get(name, 1),
            )
    page = "\n".join((HEADER, table(rounds), conditions(options)))
    console.print(page, markup=False, highlight=False, soft_wrap=True)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.with_suffix(".md").write_text(page, encoding="utf-8")
        draw({name: run.losses for name, run in rounds[0].items()}, options.out.with_suffix(".png"))
    return 0


def starting_weights(entry: str, path: Path) -> Path:
    """Write random weights from which training can start although its norms stay constant."""
    torch.manual_seed(0)
    [image] = read_images(embedded(), 1)
    detector = zoo.build(entry).eval()
    batch = detector.prepare([image])[0]
    calibrate_batchnorm(detector, lambda: detector.network(batch))
    release(detector.state_dict(), detector.classes, entry, path)
    return path


def photographs_of_one_size(path: Path) -> Path:
    """Write annotations of the embedded photographs of the most common size.

    Images of different size are padded to the largest of their batch, so that the parts of a batch,
    or the batches of two processes, would have other pixels than the whole batch.
    """
    content = load_annotations(embedded().annotations)
    size = Counter((image["width"], image["height"]) for image in content["images"])
    ((common, _),) = size.most_common(1)
    images = [i for i in content["images"] if (i["width"], i["height"]) == common]
    kept = {image["id"] for image in images}
    boxes = [a for a in content["annotations"] if a["image_id"] in kept]
    path.write_text(json.dumps({**content, "images": images, "annotations": boxes}))
    return path


def train(entry: str, overrides: Sequence[str], processes: int) -> Run:
    """Run `fcos-zoo train` and read its record of each step."""
    launch = [sys.executable, "-m"]
    if processes > 1:
        launch += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    folder = next(Path(o.split("=", 1)[1]) for o in overrides if o.startswith("run.folder="))
    ran = subprocess.run(
        [
            *launch,
            "tools.train",
            f"entry={entry}",
            "data.workers=0",
            "run.log_every=1",
            "run.checkpoint_every=1000000",
            "run.loggers=[]",
            *overrides,
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        check=False,
    )
    records = read(folder / "metrics.jsonl")
    if ran.returncode or len(records) <= SETTLING:
        return Run(failed=(ran.stderr.strip().splitlines() or ["ended early"])[-1])
    return Run(
        tuple(record["loss"] for record in records),
        statistics.median(record["images_per_second"] for record in records[SETTLING:]),
        max(record["memory_mib"] for record in records),
    )


def table(rounds: Sequence[Mapping[str, Run]]) -> str:
    """A Markdown table with a row for each option."""
    plain = rounds[0][BASE]
    lines = [
        "| option | images/s | times as fast | peak MiB | loss, last ten steps "
        "| largest difference of a step's loss from fp32's |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, first in rounds[0].items():
        runs = [(each[name], each[BASE]) for each in rounds]
        if any(run.failed for run, _ in runs) or plain.failed:
            why = next((run.failed for run, _ in runs if run.failed), plain.failed)
            lines.append(f"| {name} | - | - | - | - | {why} |")
            continue
        ratios = [run.images_per_second / base.images_per_second for run, base in runs]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        speed = statistics.median(run.images_per_second for run, _ in runs)
        away = max(abs(a - b) / b for a, b in zip(first.losses, plain.losses, strict=True))
        lines.append(
            f"| {name} | {speed:.2f} | {spread} | {first.memory_mib} "
            f"| {statistics.mean(first.losses[-10:]):.4f} | {away:.1e} |"
        )
    return "\n".join(lines) + "\n"


def conditions(options: argparse.Namespace) -> str:
    """A paragraph on where and how it was measured."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    facts = environment.describe(device)
    height, width = options.size
    return (
        f"{options.entry}, {options.batch} images of {height}x{width} per step, "
        f"{options.steps} steps, "
        f"then {options.rounds - 1} rounds of {options.short}; {facts.get('gpu') or facts['cpu']}, "
        f"{os.cpu_count()} cores, torch {facts['torch']}, load at the end "
        f"{environment.state(device).get('load')}.\n"
    )


def draw(curves: Mapping[str, Sequence[float]], path: Path) -> None:
    """Draw the loss by step of every option, and its difference from that of fp32."""
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(10, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        colours = mpl.colormaps["viridis"].resampled(len(curves))
        styles = ("-", "--", "-.", ":")
        for number, (name, losses) in enumerate(curves.items()):
            look: dict[str, Any] = {
                "color": colours(number),
                "linestyle": styles[number % len(styles)],
                "label": name,
            }
            steps = range(1, len(losses) + 1)
            left.plot(steps, losses, **look)
            if name != BASE and losses:
                away = [abs(a / b - 1) for a, b in zip(losses, curves[BASE], strict=True)]
                right.semilogy(steps, [max(value, EQUAL) for value in away], **look)
        left.set(xlabel="step", ylabel="loss")
        right.set(xlabel="step", ylabel=f"relative difference from fp32 ({EQUAL:g}: none)")
        figure.legend(*left.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
        figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
