"""Which memory layout a network is fastest in."""

from __future__ import annotations

import torch


def inference_layout(device: torch.device | str, dtype: torch.dtype) -> torch.memory_format:
    """The memory format of the weights of a detector that is only run.

    CPUs and the tensor cores of GPUs, which half precision uses, compute convolutions in
    channels_last. In float32 on a GPU the kernels of both layouts are alike, but group norm answers
    in the contiguous one, so that every layer of the head would be copied twice.
    """
    float32_on_gpu = torch.device(device).type == "cuda" and dtype == torch.float32
    return torch.contiguous_format if float32_on_gpu else torch.channels_last
