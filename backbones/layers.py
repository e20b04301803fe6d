"""Layers that the backbones share: norms by name, convolution + norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import _functions
from torch.utils.checkpoint import checkpoint

from backbones.deformable import DeformConv2d

NormKind = Literal["frozen_bn", "eval_bn", "bn", "sync_bn"]
Activation = Literal["relu", "relu6"] | None


class KeepFloat32(nn.Module):
    """Mixin: parameters and buffers stay in float32 when the network is cast below it."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        def keep_float32(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            lowered = moved.is_floating_point() and moved.dtype.itemsize < torch.float32.itemsize
            return tensor.to(moved.device, torch.float32) if lowered else moved

        return super()._apply(keep_float32, recurse)


class FrozenBatchNorm2d(KeepFloat32):
    """Batch norm whose statistics and affine terms are constants (buffers, no gradient).

    maskrcnn-benchmark divides by sqrt(var), detectron2 by sqrt(var + 1e-5): `eps` is the
    difference.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )


class BatchNorm2d(KeepFloat32, nn.BatchNorm2d):
    """`nn.BatchNorm2d` that stays in float32 within a bf16 network."""


class EvalBatchNorm2d(BatchNorm2d):
    """Batch norm that always uses its running statistics, while its affine terms are trained."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )


class _SumOverRanks(torch.autograd.Function):
    """All-reduce of a tensor, and of its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone()
        dist.all_reduce(total)
        return total


class SyncBatchNorm2d(BatchNorm2d):
    """Batch norm over the images of all processes.

    On GPUs by the kernels of `nn.SyncBatchNorm`; that module, and DDP with it, refuses CPUs.
    """

    def forward(self, input: Tensor) -> Tensor:
        distributed = self.training and dist.is_available() and dist.is_initialized()
        if not distributed or dist.get_world_size() == 1:
            return super().forward(input)
        mean = var = None
        if self.track_running_stats:
            mean, var = self.running_mean, self.running_var
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        statistics = (mean, var, self.eps, self.momentum)
        if input.is_cpu:
            return _sync_batch_norm_cpu(input, self.weight, self.bias, *statistics)
        everybody = (dist.group.WORLD, dist.get_world_size())
        return _functions.SyncBatchNorm.apply(
            input, self.weight, self.bias, *statistics, *everybody
        )


def _sync_batch_norm_cpu(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    eps: float,
    momentum: float | None,
) -> Tensor:
    x = input.float()
    number = x.new_tensor([x.numel() / x.shape[1]])
    total, count = _SumOverRanks.apply(torch.cat((x.sum((0, 2, 3)), number))).split(x.shape[1])
    mean = total / count
    x = x - mean[:, None, None]
    var = _SumOverRanks.apply(x.square().sum((0, 2, 3))) / count
    if running_mean is not None and running_var is not None and momentum is not None:
        running_mean.lerp_(mean.detach(), momentum)
        running_var.lerp_((var * count / (count - 1)).detach(), momentum)
    scale = weight * (var + eps).rsqrt()
    return (x * scale[:, None, None] + bias[:, None, None]).to(input.dtype)


_NORMS: dict[str, Callable[..., nn.Module]] = {
    "frozen_bn": FrozenBatchNorm2d,
    "eval_bn": EvalBatchNorm2d,
    "bn": BatchNorm2d,
    "sync_bn": SyncBatchNorm2d,
}


def make_norm(kind: NormKind, channels: int, eps: float = 1e-5) -> nn.Module:
    """A batch norm by name; ValueError lists the names when it is none of them."""
    if kind not in _NORMS:
        raise ValueError(f"unknown norm {kind!r}; choose one of {', '.join(_NORMS)}")
    return _NORMS[kind](channels, eps=eps)


def constant_norm(kind: NormKind) -> NormKind:
    """The norm of a frozen stage: batch statistics make no sense where the weights stand still."""
    return "frozen_bn" if kind in ("bn", "sync_bn") else kind


class ConvNorm(nn.Module):
    """Convolution without bias, norm and activation: act(norm(conv(x))).

    A norm of constant statistics is folded into the convolution: the same affine map, one pass over
    memory fewer, and in training one activation fewer to keep. When nothing is learned (eval mode,
    no gradients) every norm is, and the folded weights are kept until a tensor they came from
    changes, as torch's counter of in-place changes tells; after one through `.data`, which it does
    not see, call `train()` and `eval()`. In eval mode with gradients the layer is literally as it
    was published.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        norm: NormKind,
        norm_eps: float = 1e-5,
        stride: int = 1,
        groups: int = 1,
        activation: Activation = "relu",
        deformable: bool = False,
    ) -> None:
        super().__init__()
        conv = DeformConv2d if deformable else nn.Conv2d
        self.conv = conv(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            groups=groups,
            bias=False,
        )
        self.norm = make_norm(norm, out_channels, norm_eps)
        self.activation = activation
        self._folded: tuple[tuple[object, ...], Tensor, Tensor] | None = None
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self._activate(self._conv_norm(x))

    def _conv_norm(self, x: Tensor) -> Tensor:
        if self.trains_folded and torch.is_grad_enabled():
            return self.conv._conv_forward(x, *self._fold())
        fused = isinstance(self.norm, nn.Identity)
        if fused or self.norm.training or torch.is_grad_enabled():
            return self.norm(self.conv(x))
        if torch.compiler.is_compiling():  # a graph cannot look at versions: see `fold`
            if self._folded is None:
                return self.norm(self.conv(x))
            return self.conv._conv_forward(x, *self._folded[1:])
        return self.conv._conv_forward(x, *self._kept_fold())

    @torch.no_grad()
    def fold(self) -> None:
        """Fold the norm now, for code that is compiled after this and then takes it as it is."""
        self._kept_fold()

    @torch.no_grad()
    def fuse(self) -> None:
        """Become one convolution for good, for a graph that is never trained."""
        weight, bias = self._fold()
        self.conv.weight = nn.Parameter(weight, requires_grad=False)
        self.conv.bias = nn.Parameter(bias, requires_grad=False)
        self.norm = nn.Identity()
        self._folded = None

    @property
    def trains_folded(self) -> bool:
        """Whether training goes through the folded weights: the norm's statistics are constant."""
        return self.training and isinstance(self.norm, FrozenBatchNorm2d | EvalBatchNorm2d)

    def _activate(self, x: Tensor) -> Tensor:
        if self.activation == "relu":
            return F.relu_(x)
        return F.relu6(x, inplace=True) if self.activation == "relu6" else x

    def _fold(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of a convolution that is this one and the norm."""
        norm: Any = self.norm
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        weight = self.conv.weight * scale.view(-1, 1, 1, 1)
        bias = norm.bias - norm.running_mean * scale
        return weight.to(self.conv.weight.dtype), bias.to(self.conv.weight.dtype)

    def _kept_fold(self) -> tuple[Tensor, Tensor]:
        norm: Any = self.norm
        # Training moves running statistics without a trace in their version; the counter has one.
        counter = getattr(norm, "num_batches_tracked", norm.running_var)
        affine = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        sources = (self.conv.weight, *affine, counter)
        stamp = tuple(
            (id(t), t.data_ptr(), -1 if t.is_inference() else t._version) for t in sources
        )
        if self._folded is None or self._folded[0] != stamp:
            weight, bias = self._fold()
            # A convolution answers in the layout of its weights, and CPUs are faster at NHWC.
            nhwc = self.conv.weight.is_cpu or not self.conv.weight.is_contiguous()
            layout = torch.channels_last if nhwc else torch.contiguous_format
            self._folded = (
                stamp,
                weight.to(memory_format=layout).detach(),
                bias.detach(),
            )
        return self._folded[1], self._folded[2]

    def train(self, mode: bool = True) -> ConvNorm:
        if mode:
            self._folded = None
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        self._folded = None
        return super()._apply(fn, recurse)


class ConcatConvNorm(ConvNorm):
    """`ConvNorm` of several maps joined along their channels: act(norm(conv(cat(parts)))).

    The joined map is as large as all its parts together. In training it is not kept but put
    together again for the backward pass (as in memory-efficient DenseNets, arXiv:1707.06990).
    """

    def forward(self, *parts: Tensor) -> Tensor:
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(torch.cat(parts, dim=1))
        x = checkpoint(self._join, *parts, use_reentrant=False, preserve_rng_state=False)
        return self._activate(x if self.trains_folded else self.norm(x))

    def _join(self, *parts: Tensor) -> Tensor:
        x = torch.cat(parts, dim=1)
        return self._conv_norm(x) if self.trains_folded else self.conv(x)
