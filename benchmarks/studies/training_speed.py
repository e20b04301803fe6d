"""Training FCOS_R_50_1x and torchvision's FCOS: `python -m benchmarks.studies.training_speed`.

Both take the same two images and boxes through one optimisation step: forward, losses, backward,
SGD with momentum. Both follow the published recipe, with constant norms, stem and first stage, and
start from random weights whose norms have the statistics of a photograph. On a GPU, the default is
the published size, 800x1333, in fp32, TF32 and bf16, with the peak memory of each (without the
tensors of the other contenders). On a CPU, which may only emulate bf16, the default is fp32, and
`--size 256 416` makes it short.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

import zoo
from benchmarks.baselines import trainable_torchvision
from benchmarks.dataset import embedded, read_images
from benchmarks.random_weights import calibrate_batchnorm
from benchmarks.studies import side_by_side as study
from benchmarks.training_memory import sgd, training_batch, training_step
from fcos.preprocess import resize_image
from zoo.pretrained import DTYPES

ENTRY = "FCOS_R_50_1x"
BASELINE = "torchvision"


def main() -> None:
    """Measure and print the table."""
    parser = study.arguments(__doc__, rounds=10)
    add = parser.add_argument
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--size", type=int, nargs=2, default=(800, 1333), help="height and width (%(default)s)")
    add("--images", type=int, default=2, help="images per step (%(default)s)")
    add("--warmup", type=int, default=3, help="steps before them (%(default)s)")
    add("--precisions", nargs="+", help="default: fp32, tf32 and bf16 on a GPU, fp32 on a CPU")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size, device = (options.size[0], options.size[1]), torch.device(options.device)
    usual = ["fp32", "tf32", "bf16"] if device.type == "cuda" else ["fp32"]
    precisions = options.precisions or usual
    models = [
        (name, precision, build(name, size, device))
        for precision in precisions
        for name in (BASELINE, ENTRY)
    ]
    steps = {
        f"{name} {precision}": timed_step(model, precision, size, options.images, device)
        for name, precision, model in models
    }
    frame = study.side_by_side(steps, options.rounds, options.warmup)
    first = next(iter(steps))
    rows = [
        {
            "": name,
            "images/s": f"{options.images / row['seconds']:.2f}",
            "ms per step": f"{1e3 * row['seconds']:.0f}",
            "peak GB": f"{row['peak_gb']:.2f}" if row["peak_gb"] else "-",
            "times as fast": study.speedup(frame, str(name), over=first),
        }
        for name, row in study.medians(frame).to_dict("index").items()
    ]
    title = f"{options.images} images of {size[0]}x{size[1]} per step"
    print(study.markdown(rows, title, study.conditions(str(device), options.rounds)))


def build(name: str, size: tuple[int, int], device: torch.device) -> nn.Module:
    """Build a model in training mode, with norms that have the statistics of a photograph."""
    [photo] = read_images(embedded(), 1)
    torch.manual_seed(0)
    model: Any
    if name == BASELINE:
        model = trainable_torchvision((size[0], max(size))).eval()
        calibrate_batchnorm(model, lambda: model([photo / 255]))
    else:
        model = zoo.build(ENTRY).eval()
        calibrate_batchnorm(model, lambda: model.network(model.prepare([photo])[0]))
    return model.to(device).to(memory_format=torch.channels_last).train()


def timed_step(
    model: nn.Module, precision: str, size: tuple[int, int], num_images: int, device: torch.device
) -> Callable[[], dict[str, float]]:
    """Return a function that trains a model for a step and returns seconds and peak GB."""
    [photo] = read_images(embedded(), 1)
    _, targets = training_batch(80, size, num_images)
    images = [resize_image(photo, size).to(device) / 255] * num_images
    targets = [{key: value.to(device) for key, value in t.items()} for t in targets]
    optimizer = sgd(model)
    dtype = DTYPES.get(precision, torch.float32)
    gpu = device.type == "cuda"

    def tensors() -> Iterator[Tensor]:
        yield from (*model.parameters(), *model.buffers())
        for state in optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))

    def step() -> dict[str, float]:
        tf32 = precision == "tf32"
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        others = 0
        if gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            others = torch.cuda.memory_allocated() - sum(tensor.nbytes for tensor in tensors())
        start = time.perf_counter()
        autocast = torch.autocast(device.type, dtype, dtype != torch.float32)
        training_step(model, images, targets, optimizer, autocast)
        if gpu:
            torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() - others if gpu else 0
        return {"seconds": time.perf_counter() - start, "peak_gb": peak / 2**30}

    return step


if __name__ == "__main__":
    main()
