"""How many parts a step must be computed in to fit on the GPU."""

from __future__ import annotations

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from fcos.boxes import Size
from fcos.detector import Detector
from fcos.train import distributed

FREE = 0.1  # of the GPU's memory is left alone: allocators fragment


def fitting_parts(
    detector: Detector, images: int, size: Size, dtype: torch.dtype = torch.float32, group: int = 1
) -> int:
    """The least divisor of `images` for which a part of them fits, by trying.

    Args:
        detector: in training mode on its device; it is left as it was. CPUs are not probed.
        images: this process's share of a step.
        size: (height, width) of the largest images that training will see.
        dtype: of the network's computation.
        group: images in a row of the same orientation; a part of more may hold upright and lying
            ones, and is then padded to a square.

    Raises:
        RuntimeError: not even one image fits.
    """
    device = detector.normalizer.mean.device
    if device.type != "cuda":
        return 1
    # Ranks try on their own: in eval mode norms exchange nothing, and keep nothing.
    norms = [m for m in detector.modules() if isinstance(m, _BatchNorm) and m.training]
    for norm in norms:
        norm.eval()
    try:
        divisors = [n for n in range(1, images + 1) if images % n == 0]
        square = (max(size), max(size))
        sizes = [size if images // n <= group else square for n in divisors]
        tried = zip(divisors, sizes, strict=True)
        fitting = next((n for n, each in tried if _fits(detector, images // n, each, dtype)), None)
    finally:
        for norm in norms:
            norm.train()
        torch.cuda.reset_peak_memory_stats(device)
    parts = distributed.maximum(fitting or images + 1)
    if parts > images:
        height, width = size
        raise RuntimeError(
            f"not even one image of {width}x{height} fits on the GPU: set solver.recompute=true, "
            "solver.precision=bf16 or smaller sizes in `augmentation`"
        )
    return parts


def _fits(detector: Detector, images: int, size: Size, dtype: torch.dtype) -> bool:
    device = detector.normalizer.mean.device
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    pictures = [torch.zeros(3, *size, dtype=torch.uint8) for _ in range(images)]
    box = torch.tensor([[0.25, 0.25, 0.75, 0.75]]) * torch.tensor(size[::-1] * 2)
    targets = [{"boxes": box, "labels": torch.zeros(1, dtype=torch.int64)} for _ in pictures]
    try:
        with torch.autocast(device.type, dtype, dtype != torch.float32):
            losses = detector(pictures, targets, torch.ones(3, images, device=device))
        torch.stack(list(losses.values())).sum().backward()
    except torch.OutOfMemoryError:
        return False
    finally:
        detector.zero_grad()
    momentum = sum(p.numel() * 4 for p in detector.parameters() if p.requires_grad)
    used = torch.cuda.max_memory_allocated(device) + momentum
    return used < (1 - FREE) * torch.cuda.get_device_properties(device).total_memory
