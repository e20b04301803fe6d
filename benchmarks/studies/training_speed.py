"""Training FCOS_R_50_1x beside torchvision's FCOS: `python -m benchmarks.studies.training_speed`.

Both take the same two images and boxes through one optimisation step (forward, losses, backward,
SGD with momentum), in turns, so that whatever else the machine does falls on all alike; a ratio is
the median over rounds of their seconds by ours in the same round. Both train what the published
recipe trains: norms, stem and first stage stay as they are (torchvision's
`trainable_backbone_layers=3`); random weights whose norms have a photograph's statistics. On a GPU
the published size, 800x1333, in fp32, TF32 and bf16, with the peak memory of each, the other
contenders' own tensors left out; on a CPU say `--size 256 416`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torchvision.models.detection import fcos_resnet50_fpn
from torchvision.ops import FrozenBatchNorm2d

import zoo
from benchmarks import environment
from benchmarks.dataset import embedded, read_images
from benchmarks.memory import sgd, training_batch
from benchmarks.random_weights import calibrate_batchnorm
from fcos.preprocess import resize_image
from zoo.build import DTYPES

ENTRY = "FCOS_R_50_1x"
THEIRS = "torchvision"


@dataclass(frozen=True)
class Contender:
    """A precision, "tf32" among them, and a `step` that learns once from the same batch.

    `state` gives the tensors that live between two steps: weights, momentum.
    """

    precision: str
    step: Callable[[], object]
    state: Callable[[], Iterable[Tensor]]

    def run(self, device: torch.device) -> tuple[float, float]:
        """Seconds of a step, and its peak memory in GB of 2^30 bytes (0 on a CPU)."""
        gpu = device.type == "cuda"
        if gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        others = torch.cuda.memory_allocated() - sum(t.nbytes for t in self.state()) if gpu else 0
        with tf32(self.precision == "tf32"):
            start = time.perf_counter()
            self.step()
            if gpu:
                torch.cuda.synchronize()
            seconds = time.perf_counter() - start
        return seconds, (torch.cuda.max_memory_allocated() - others) / 2**30 if gpu else 0.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--size", type=int, nargs=2, default=(800, 1333), help="height and width (%(default)s)")
    add("--images", type=int, default=2, help="a step (%(default)s)")
    add("--rounds", type=int, default=10, help="timed turns of each (%(default)s)")
    add("--warmup", type=int, default=3, help="turns before them (%(default)s)")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    precisions = ["fp32", *(["tf32"] if device.type == "cuda" else []), "bf16"]
    contenders = {
        f"{who} {precision}": make(who, precision, tuple(options.size), options.images, device)
        for precision in precisions
        for who in (THEIRS, ENTRY)
    }
    rounds: list[dict[str, tuple[float, float]]] = []
    console = Console()
    for number in track(
        range(options.warmup + options.rounds),
        "rounds",
        console=console,
        disable=not console.is_terminal,
    ):
        taken = {name: contender.run(device) for name, contender in contenders.items()}
        if number >= options.warmup:
            rounds.append(taken)
    console.print(table(rounds, options.images))
    facts = environment.describe(str(device))
    console.print(
        f"{options.images} images of {options.size[0]}x{options.size[1]} a step, "
        f"{facts.get('gpu') or facts['cpu']}, {torch.get_num_threads()} threads, torch "
        f"{facts['torch']}, torchvision {facts['torchvision']}, {options.rounds} rounds, load "
        f"{environment.state(str(device)).get('load')}",
        highlight=False,
    )
    return 0


def make(
    who: str, precision: str, size: tuple[int, int], images: int, device: torch.device
) -> Contender:
    """A model and its step on grey images of `size` with COCO's usual seven or so objects."""
    torch.manual_seed(0)
    [photo] = read_images(embedded(), 1)
    ours = zoo.build(ENTRY).eval()
    batch, targets = training_batch(ours, size, images)
    batch = [resize_image(photo, size).to(device) for _ in batch]
    targets = [{key: value.to(device) for key, value in target.items()} for target in targets]
    model: nn.Module = ours
    if who == THEIRS:
        model = fcos_resnet50_fpn(
            weights=None,
            weights_backbone=None,
            min_size=size[0],
            max_size=max(size),
            norm_layer=FrozenBatchNorm2d,
        ).eval()
        body = model.get_submodule("backbone.body")
        for part in ("conv1", "layer1"):  # of random weights torchvision trains all
            body.get_submodule(part).requires_grad_(False)
        calibrate_batchnorm(model, lambda: model([photo / 255]))
        batch = [image / 255 for image in batch]
    else:
        calibrate_batchnorm(model, lambda: ours.network(ours.prepare([photo])[0]))
    model.to(device).to(memory_format=torch.channels_last).train()
    optimizer = sgd(model)
    dtype = DTYPES.get(precision, torch.float32)

    def step() -> None:
        with torch.autocast(device.type, dtype, dtype != torch.float32):
            losses: dict[str, Tensor] = model(batch, targets)
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    def state() -> Iterator[Tensor]:
        yield from (*model.parameters(), *model.buffers())
        for kept in optimizer.state.values():
            yield from (value for value in kept.values() if isinstance(value, Tensor))

    return Contender(precision, step, state)


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether matrix products and convolutions on a GPU may round to TF32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def table(rounds: Sequence[dict[str, tuple[float, float]]], images: int) -> Table:
    """Medians, and ratios to torchvision's first column round by round."""
    shown = Table()
    for heading in ("", "images/s", "ms a step", "peak GB", "times as fast"):
        shown.add_column(heading, justify="right" if heading else "left")
    first = next(iter(rounds[0]))
    for name in rounds[0]:
        seconds = statistics.median(each[name][0] for each in rounds)
        memory = max(each[name][1] for each in rounds)
        ratios = [each[first][0] / each[name][0] for each in rounds]
        shown.add_row(
            name,
            f"{images / seconds:.2f}",
            f"{1e3 * seconds:.0f}",
            f"{memory:.2f}" if memory else "-",
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        )
    return shown


if __name__ == "__main__":
    sys.exit(main())
