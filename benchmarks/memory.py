"""Peak memory of inference and of training, measured."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

import zoo
from zoo.pretrained import DTYPES

IMAGES_PER_GPU = 2  # of the published recipes: 16 images on 8 GPUs
TIMED_STEPS = 20


def inference(
    stages: Mapping[str, Callable[[Any], Any]], inputs: Sequence[Any], device: str
) -> dict[str, Any]:
    """Peak memory over all inputs, in MB of 2^20 bytes: the allocator's on a GPU, the resident
    memory of the process on a CPU."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # memory that loading has left would count as reserved
        torch.cuda.reset_peak_memory_stats()
    was_reset = reset_peak_rss()
    loaded = rss_mb("VmRSS")
    for item in inputs:
        for stage in stages.values():
            item = stage(item)
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        return {
            "kind": "max_memory_allocated",
            "peak_mb": torch.cuda.max_memory_allocated() / 2**20,
            "reserved_mb": torch.cuda.max_memory_reserved() / 2**20,
        }
    kind = "peak RSS of the process" if was_reset else "peak RSS of the process, loading included"
    return {"kind": kind, "peak_mb": rss_mb("VmHWM"), "loaded_mb": loaded}


def training_step(
    model: nn.Module,
    images: list[Tensor],
    targets: list[dict[str, Tensor]],
    device: str,
    precision: str = "fp32",
) -> dict[str, Any]:
    """Peak GPU memory of optimisation steps in GB of 2^30 bytes, and images per second.

    The peak is that of two steps, since the optimiser's momentum exists only from the second on.

    Args:
        model: on the device, in training mode; returns a dict of losses for images and targets.
        images, targets: of one step; moved to the device.
        device: a GPU.
        precision: "fp32" or "tf32", or "bf16" or "fp16" by autocast.
    """
    if not device.startswith("cuda"):
        raise RuntimeError("training memory is measured on a GPU; without one it is predicted")
    optimizer = sgd(model)
    images = [image.to(device) for image in images]
    targets = [{key: value.to(device) for key, value in t.items()} for t in targets]
    dtype = DTYPES.get(precision, torch.float32)

    def step() -> None:
        with torch.autocast("cuda", dtype, dtype != torch.float32):
            losses = model(images, targets)
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()  # as the trainer does, so that gradients are freed between steps

    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        step()
    torch.cuda.synchronize()
    values: dict[str, Any] = {
        "measured_gb": torch.cuda.max_memory_allocated() / 2**30,
        "reserved_gb": torch.cuda.max_memory_reserved() / 2**30,
    }
    start = time.perf_counter()
    for _ in range(TIMED_STEPS):
        step()
    torch.cuda.synchronize()
    values["images_per_second"] = TIMED_STEPS * len(images) / (time.perf_counter() - start)
    return values


def largest_training_size(entry: str) -> tuple[int, int]:
    """(height, width) of the largest training images of an entry, which have the peak memory."""
    config = zoo.card(entry).config
    rule = config["augmentation"]
    shortest = rule.get("shortest") or rule.get("shortest_range")
    if shortest:
        return max(shortest), rule["longest"]
    side = rule.get("square", config["resize"]["size"])
    return side, side


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """SGD with momentum, as in every published recipe."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.SGD(trained, lr=1e-4, momentum=0.9, weight_decay=1e-4)


def training_batch(
    num_classes: int, size: tuple[int, int], num_images: int
) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Grey images of `size` (height, width), each with seven objects, COCO's average."""
    height, width = size
    sides = torch.tensor([24.0, 48.0, 96.0, 160.0, 256.0, 384.0, 512.0])
    corner = torch.arange(len(sides))[:, None] * torch.tensor([[width / 16, height / 16]])
    limit = torch.tensor([width - 1.0, height - 1.0])
    boxes = torch.cat([corner, torch.minimum(corner + sides[:, None], limit)], dim=1)
    labels = torch.arange(len(sides)) % num_classes
    image = torch.full((3, height, width), 127, dtype=torch.uint8)
    return [image] * num_images, [{"boxes": boxes, "labels": labels}] * num_images


def reset_peak_rss() -> bool:
    """Reset the peak resident memory of this process; False where the system cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def rss_mb(field: Literal["VmHWM", "VmRSS"]) -> float:
    """Resident memory of this process: the peak (VmHWM) or the current value (VmRSS).

    Read from Linux's /proc, as `getrusage` there includes the parent's memory before exec. On other
    systems it is always the peak.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / 1024
    import resource  # not available on Windows

    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
