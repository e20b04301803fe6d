"""The effect of each training option on speed, memory and loss.

    python -m benchmarks.studies.training_options > reports/training_options.md
    fcos-zoo report curves outputs/training_options/* --out reports/training_options.png

Each option is a run of `fcos-zoo train` in its own process, with the same entry, the same starting
weights and, step by step, the same batches of embedded photographs of one size, so that the loss
curves of all options can be compared. In each round, the options run one after the other, so that
other load on the machine affects all of them. A ratio is the median over the rounds of an option's
speed divided by that of fp32 in the same round. The runs of the last round stay in `--folder`.

The initial weights are random, and the norms have the statistics of a photograph. On a CPU, memory
is the peak of the (first) process, including torch itself.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import torch

import zoo
from benchmarks.dataset import EMBEDDED, embedded, read_images
from benchmarks.random_weights import calibrate_batchnorm
from benchmarks.studies import side_by_side as study
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
SETTLING = 3  # first steps, whose speed does not count because of caches and compilation


def main() -> None:
    """Run every option in each round, and print the page."""
    parser = study.arguments(__doc__, rounds=3)
    add = parser.add_argument
    add("--entry", default="FCOS_R_50_1x")
    add("--steps", type=int, default=50, help="steps of a run (%(default)s)")
    add("--batch", type=int, default=4, help="images per step (%(default)s)")
    add("--size", type=int, nargs=2, default=(256, 427), help="shortest and longest side")
    # A CPU emulates fp16, which would take hours, so it only runs there if it is named.
    usual = [name for name in OPTIONS if name != "fp16" or torch.cuda.is_available()]
    add("--options", nargs="+", choices=OPTIONS, default=usual, metavar="OPTION")
    add("--folder", type=Path, default=Path("outputs/training_options"), help="%(default)s")
    options = parser.parse_args()
    height, width = options.size
    losses: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        common = [
            f"entry={options.entry}",
            f"data.train={photographs_of_one_size(Path(name) / 'annotations.json')}",
            f"data.train_images={EMBEDDED / 'images'}",
            f"init.checkpoint={starting_weights(options.entry, Path(name) / 'start.pth')}",
            f"schedule.iterations={options.steps}",
            "schedule.steps=[]",
            f"solver.batch={options.batch}",
            f"solver.base_lr={0.01 * options.batch / 16}",
            "solver.warmup.iterations=10",
            f"augmentation.shortest=[{height}]",
            f"augmentation.longest={width}",
        ]
        runs = {
            option: partial(train, option, common, options.folder, options.threads, losses)
            for option in dict.fromkeys([BASE, *options.options])
        }
        frame = study.side_by_side(runs, options.rounds, warmup=0)
    below = (
        f"{options.entry}, {options.batch} images of {height}x{width} per step, {options.steps} "
        f"steps; {study.conditions('cuda' if torch.cuda.is_available() else 'cpu', options.rounds)}"
    )
    print(study.markdown(table(frame, losses), HEADER.rstrip(), below))


def starting_weights(entry: str, path: Path) -> Path:
    """Write random weights from which training can start although the norms stay constant."""
    torch.manual_seed(0)
    [image] = read_images(embedded(), 1)
    detector = zoo.build(entry).eval()
    batch = detector.prepare([image])[0]
    calibrate_batchnorm(detector, lambda: detector.network(batch))
    release(detector.state_dict(), detector.classes, entry, path)
    return path


def photographs_of_one_size(path: Path) -> Path:
    """Write annotations of the embedded photographs of the most common size.

    Images of different sizes are padded to the largest of their batch, so that micro-batches, or
    the batches of two processes, would have other pixels than the whole batch.
    """
    content = load_annotations(embedded().annotations)
    size = Counter((image["width"], image["height"]) for image in content["images"])
    ((common, _),) = size.most_common(1)
    images = [i for i in content["images"] if (i["width"], i["height"]) == common]
    kept = {image["id"] for image in images}
    boxes = [a for a in content["annotations"] if a["image_id"] in kept]
    path.write_text(json.dumps({**content, "images": images, "annotations": boxes}))
    return path


def train(
    option: str,
    overrides: Sequence[str],
    folder: Path,
    threads: int,
    losses: dict[str, list[float]],
) -> dict[str, float]:
    """Run `fcos-zoo train` with an option; returns seconds per image and the peak memory in MiB.

    The loss of each step is added to `losses`.

    Raises:
        RuntimeError: training failed.
    """
    launch = ["-m"]
    if option == "2 processes":
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    run = folder / option.replace(" ", "_")
    shutil.rmtree(run, ignore_errors=True)
    fixed = ["data.workers=0", "run.log_every=1", "run.checkpoint_every=1000000", "run.loggers=[]"]
    done = subprocess.run(
        [
            *(sys.executable, *launch, "tools.train", *overrides, *fixed, *OPTIONS[option]),
            f"run.folder={run}",
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": str(threads)},
        check=False,
    )
    records = read(run / "metrics.jsonl")
    if done.returncode or len(records) <= SETTLING:
        last = (done.stderr.strip().splitlines() or ["ended early"])[-1]
        raise RuntimeError(f"{option}: {last}")
    losses[option] = [record["loss"] for record in records]
    speed = statistics.median(record["images_per_second"] for record in records[SETTLING:])
    memory = max(record["memory_mib"] for record in records)
    return {"seconds": 1 / speed, "memory_mib": memory}


def table(frame: pd.DataFrame, losses: Mapping[str, Sequence[float]]) -> list[dict[str, str]]:
    """Return a row for each option."""
    rows = []
    for name, figures in study.medians(frame).iterrows():
        own, base = losses[str(name)], losses[BASE]
        away = max(abs(a / b - 1) for a, b in zip(own, base, strict=True))
        rows.append(
            {
                "option": str(name),
                "images/s": f"{1 / figures['seconds']:.2f}",
                "times as fast": study.speedup(frame, str(name), over=BASE),
                "peak MiB": f"{figures['memory_mib']:.0f}",
                "loss, last ten steps": f"{statistics.mean(own[-10:]):.4f}",
                "largest difference of a step's loss from fp32's": f"{away:.1e}",
            }
        )
    return rows


if __name__ == "__main__":
    main()
