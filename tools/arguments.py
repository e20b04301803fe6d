"""What several commands take and do alike."""

from __future__ import annotations

import argparse
from pathlib import Path


def positive(text: str) -> int:
    """A whole number from 1 on, for argparse."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 1 on")
    return int(text)


def name_for_files(model: str) -> str:
    """What files made with a model are called: its name, or RUN_best for `runs/RUN/best.pth`."""
    path = Path(model)
    if path.suffix not in (".pth", ".pt", ".safetensors"):
        return path.name
    return "_".join(filter(None, (path.parent.name, path.stem)))


def default_device() -> str:
    """A GPU where there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def exact_float32() -> None:
    """Let fp32 be that on GPUs, too, whose convolutions torch otherwise rounds to TF32."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
