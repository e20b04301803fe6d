"""Layers that the backbones share: norms by name, convolution + norm."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import _functions
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils.checkpoint import checkpoint

NormKind = Literal["frozen_bn", "eval_bn", "bn", "sync_bn"]
NormLayer = Callable[[int], nn.Module]  # from a number of channels
Activation = Literal["relu", "relu6"] | None
# torch 2.6 has no `is_exporting` yet.
is_exporting: Callable[[], bool] = getattr(
    torch.compiler, "is_exporting", torch.compiler.is_compiling
)


class KeepFloat32(nn.Module):
    """Mixin: parameters and buffers stay in float32 when the network is cast below it."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        def keep_float32(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            lowered = moved.is_floating_point() and moved.dtype.itemsize < torch.float32.itemsize
            return tensor.to(moved.device, torch.float32) if lowered else moved

        return super()._apply(keep_float32, recurse)


class _ConstantStatistics(KeepFloat32):
    """Mixin: a batch norm that always uses its running statistics."""

    weight: Any
    bias: Any
    running_mean: Any
    running_var: Any
    eps: float

    def forward(self, x: Tensor) -> Tensor:
        # Unlike `F.batch_norm` of some versions of torch, such as 2.11, it takes an `eps` of 0.
        return torch.batch_norm(
            x,
            self.weight,
            self.bias,
            self.running_mean,
            self.running_var,
            training=False,
            momentum=0.0,
            eps=self.eps,
            cudnn_enabled=torch.backends.cudnn.enabled,
        )

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """Return the norm as `x * scale + shift`, each of shape (channels,)."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale


class FrozenBatchNorm2d(_ConstantStatistics):
    """Batch norm whose statistics and affine terms are constants (buffers, no gradient).

    maskrcnn-benchmark divides by sqrt(var), which is `eps` 0, and detectron2 by sqrt(var + 1e-5).
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))


class BatchNorm2d(KeepFloat32, nn.BatchNorm2d):
    """`nn.BatchNorm2d` that stays in float32 within a bf16 network."""


class EvalBatchNorm2d(_ConstantStatistics, nn.BatchNorm2d):
    """Batch norm that always uses its running statistics, while its affine terms are trained."""


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

    GPUs use the kernels of `nn.SyncBatchNorm`. That module itself refuses CPUs, and so does DDP
    with it.
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


def norm_layer(kind: NormKind, eps: float = 1e-5) -> NormLayer:
    """Return a function that makes a batch norm of this kind for a number of channels.

    Args:
        kind: "bn"; "sync_bn" over all processes; "eval_bn", which always uses its running
            statistics; "frozen_bn", whose affine terms are constants too.
        eps: added to the variance; 0 is the frozen norm of maskrcnn-benchmark.

    Raises:
        ValueError: `kind` is none of these.
    """
    if kind not in _NORMS:
        raise ValueError(f"unknown norm {kind!r}; choose one of {', '.join(_NORMS)}")
    return partial(_NORMS[kind], eps=eps)


def constant_norm(kind: NormKind) -> NormKind:
    """Return the kind of norm for a frozen stage, whose statistics must be constant, too."""
    return "frozen_bn" if kind in ("bn", "sync_bn") else kind


class AffineConv2d(nn.Conv2d):
    """`nn.Conv2d` that also computes `conv(x) * scale + shift`, through scaled weights."""

    def forward(
        self, input: Tensor, scale: Tensor | None = None, shift: Tensor | None = None
    ) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, h, w).

        `scale` and `shift`, of shape (out_channels,), are for convolutions without a bias.
        """
        if scale is None or shift is None:
            return super().forward(input)
        weight = (self.weight * scale.view(-1, 1, 1, 1)).to(self.weight.dtype)
        return self._conv_forward(input, weight, shift.to(weight.dtype))


class ConvNorm(nn.Module):
    """Convolution without bias, norm and activation: act(norm(conv(x))).

    In training a norm with constant statistics is folded into the weights on the fly, with
    gradients through the folding: the output of the convolution need not be kept for the backward
    pass. `fuse` folds any norm permanently.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        norm_layer: NormLayer,
        stride: int = 1,
        groups: int = 1,
        activation: Activation = "relu",
        conv_layer: type[AffineConv2d] = AffineConv2d,
    ) -> None:
        super().__init__()
        self.conv = conv_layer(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            groups=groups,
            bias=False,
        )
        self.norm = norm_layer(out_channels)
        self.activation = activation
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self._activate(self._conv_norm(x))

    def _conv_norm(self, x: Tensor) -> Tensor:
        if self.folds_in_training and torch.is_grad_enabled():
            norm: Any = self.norm
            return self.conv(x, *norm.scale_and_shift())
        return self.norm(self.conv(x))

    def _activate(self, x: Tensor) -> Tensor:
        if self.activation == "relu":
            return F.relu_(x)
        return F.relu6(x, inplace=True) if self.activation == "relu6" else x

    @property
    def folds_in_training(self) -> bool:
        """Whether training steps fold the norm, as they can if its statistics are constant."""
        return self.training and isinstance(self.norm, FrozenBatchNorm2d | EvalBatchNorm2d)

    @torch.no_grad()
    def fuse(self) -> None:
        """Fold the norm into the convolution permanently, for inference."""
        if isinstance(self.norm, nn.Identity):
            return
        norm: Any = self.norm
        statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
        self.conv.weight, self.conv.bias = fuse_conv_bn_weights(
            self.conv.weight, self.conv.bias, *statistics
        )
        self.norm = nn.Identity()


class ConcatConvNorm(ConvNorm):
    """`ConvNorm` of several maps, concatenated along their channels: act(norm(conv(cat(parts)))).

    The concatenation takes as much memory as all its parts together. Training therefore does not
    keep it, but computes it again in the backward pass (as in memory-efficient DenseNets,
    arXiv:1707.06990).
    """

    def forward(self, *parts: Tensor) -> Tensor:
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(torch.cat(parts, dim=1))
        x = checkpoint(self._concat_conv, *parts, use_reentrant=False, preserve_rng_state=False)
        return self._activate(x if self.folds_in_training else self.norm(x))

    def _concat_conv(self, *parts: Tensor) -> Tensor:
        x = torch.cat(parts, dim=1)
        return self._conv_norm(x) if self.folds_in_training else self.conv(x)
