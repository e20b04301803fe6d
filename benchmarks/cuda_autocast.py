"""The type rules of CUDA's autocast for tensors of any device.

`torch.autocast("cpu")` has other rules than `torch.autocast("cuda")`, and torch refuses the latter
where there is no GPU. To predict what a step needs on a GPU, its operations must have the types
that they have there. Which operations have a rule is read from torch itself, as it differs between
versions; which rule, from "CUDA Op-Specific Behavior" in the documentation of `torch.amp`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

# fmt: off
LOWER_PRECISION = {
    "addbmm", "addmm", "addmv", "addr", "baddbmm", "bmm", "chain_matmul", "conv1d", "conv2d",
    "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "einsum",
    "linalg_multi_dot", "linear", "matmul", "mm", "mv", "prelu", "scaled_dot_product_attention",
}
FLOAT32_RESULT = {"cumprod", "cumsum", "log_softmax", "prod", "softmax", "sum"}
WIDEST_TYPE = {
    "addcdiv", "addcmul", "atan2", "bilinear", "cross", "dot", "grid_sampler", "index_put",
    "linalg_vecdot", "scatter_add", "tensordot", "vdot",
}
# fmt: on
_REGISTERED = {
    name.removeprefix("aten::").partition(".")[0]
    for name in torch._C._dispatch_get_registrations_for_dispatch_key("AutocastCUDA")
}
FLOAT32 = _REGISTERED - LOWER_PRECISION - FLOAT32_RESULT - WIDEST_TYPE
# Names by which Python calls some of them.
FLOAT32 |= {"__pow__", "__rpow__"} | ({"interpolate"} if "upsample_nearest2d" in FLOAT32 else set())
CPU_RULES = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)


class CudaAutocast(TorchFunctionMode):
    """Applies the rules of CUDA's autocast wherever autocast is enabled for the CPU.

    The CPU's own rules are disabled while it is active. Code that disables autocast for a part of
    the network does so here, too.

    Args:
        dtype: torch.bfloat16 or torch.float16.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self._autocast = torch.autocast("cpu", dtype)
        self._weights: dict[int, Tensor] = {}

    def __enter__(self) -> CudaAutocast:
        self._autocast.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._autocast.__exit__(*error)
        self._weights.clear()  # as autocast does at the end of its block

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if not torch.is_autocast_enabled("cpu"):
            return func(*args, **kwargs)
        if name in LOWER_PRECISION:
            args, kwargs = tree_map_only(Tensor, self._lower, (args, kwargs))
        elif name in FLOAT32:
            args, kwargs = tree_map_only(Tensor, self._raise, (args, kwargs))
        elif name in FLOAT32_RESULT and args[0].dtype == self.dtype:
            kwargs = {"dtype": torch.float32, **kwargs}
        with torch._C._ExcludeDispatchKeyGuard(CPU_RULES):
            return func(*args, **kwargs)

    def _lower(self, tensor: Tensor) -> Tensor:
        if tensor.dtype != torch.float32:
            return tensor
        if not (tensor.is_leaf and tensor.requires_grad):
            return tensor.to(self.dtype)
        if id(tensor) not in self._weights:  # a weight is cast once for all its uses
            self._weights[id(tensor)] = tensor.to(self.dtype)
        return self._weights[id(tensor)]

    def _raise(self, tensor: Tensor) -> Tensor:
        return tensor.float() if tensor.dtype == self.dtype else tensor
