"""Training memory: measured on a GPU, or predicted without one.

A prediction runs optimisation steps on torch's fake tensors, which have a shape and a type but no
values. Every storage that an operation creates is tracked until it is freed, in the forward and the
backward pass. The result is the peak of an allocator without fragmentation, and of kernels that
need no workspace.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only

import zoo
from fcos import Detector
from zoo.pretrained import DTYPES

IMAGES_PER_GPU = 2  # the published recipes train 16 images on 8 GPUs
TIMED_STEPS = 20
BLOCK = 512  # bytes; CUDA's allocator returns multiples of it
aten = torch.ops.aten

# CUDA's autocast: the list of operations with a rule is read from torch, as it differs between
# versions. The rules are those of "CUDA Op-Specific Behavior" in the documentation of `torch.amp`.
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
# Other names of some of them in Python.
FLOAT32 |= {"__pow__", "__rpow__"} | ({"interpolate"} if "upsample_nearest2d" in FLOAT32 else set())
CPU_RULES = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)


def largest_size(entry: str) -> tuple[int, int]:
    """Return (height, width) of an entry's largest training images, which need most memory."""
    config = zoo.card(entry).config
    rule = config["augmentation"]
    shortest = rule.get("shortest") or rule.get("shortest_range")
    if shortest:
        return max(shortest), rule["longest"]
    side = rule.get("square", config["resize"]["size"])
    return side, side


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """Return SGD with momentum, as in every published recipe."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.SGD(trained, lr=1e-4, momentum=0.9, weight_decay=1e-4)


def training_batch(
    num_classes: int, size: tuple[int, int], num_images: int
) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Return grey images of `size` (height, width), each with seven objects, COCO's average."""
    height, width = size
    sides = torch.tensor([24.0, 48.0, 96.0, 160.0, 256.0, 384.0, 512.0])
    corner = torch.arange(len(sides))[:, None] * torch.tensor([[width / 16, height / 16]])
    limit = torch.tensor([width - 1.0, height - 1.0])
    boxes = torch.cat([corner, torch.minimum(corner + sides[:, None], limit)], dim=1)
    labels = torch.arange(len(sides)) % num_classes
    image = torch.full((3, height, width), 127, dtype=torch.uint8)
    return [image] * num_images, [{"boxes": boxes, "labels": labels}] * num_images


def training_step(
    model: Callable[..., dict[str, Tensor]],
    images: Sequence[Tensor],
    targets: Sequence[dict[str, Tensor]],
    optimizer: torch.optim.Optimizer,
    autocast: AbstractContextManager[Any],
) -> None:
    """Run an optimisation step; `model` returns the losses for images and targets."""
    with autocast:
        losses = model(images, targets)
    torch.stack(list(losses.values())).sum().backward()
    optimizer.step()
    optimizer.zero_grad()  # as the trainer does, so that gradients are freed between steps


def measure_step(
    model: nn.Module,
    images: list[Tensor],
    targets: list[dict[str, Tensor]],
    device: str,
    precision: str = "fp32",
) -> dict[str, Any]:
    """Measure the peak GPU memory of training in GB of 2^30 bytes, and images per second.

    The peak is that of two steps, since the optimiser's momentum exists only from the second on.

    Args:
        model: a model on the device, in training mode, that returns a dict of losses for images and
            targets.
        images, targets: those of one step; they are moved to the device.
        device: a GPU.
        precision: "fp32" or "tf32", or "bf16" or "fp16" by autocast.
    """
    if not device.startswith("cuda"):
        raise RuntimeError("training memory is measured on a GPU; without one it is predicted")
    optimizer = sgd(model)
    images = [image.to(device) for image in images]
    targets = [{key: value.to(device) for key, value in t.items()} for t in targets]
    dtype = DTYPES.get(precision, torch.float32)
    autocast = torch.autocast("cuda", dtype, dtype != torch.float32)
    step = partial(training_step, model, images, targets, optimizer, autocast)
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


def predict_step(
    entry: str, size: tuple[int, int], num_images: int = IMAGES_PER_GPU, precision: str = "fp32"
) -> dict[str, Any]:
    """Predict the peak memory of a process that trains an entry on a GPU, in GB of 2^30 bytes.

    Args:
        entry: a name of the zoo.
        size: (height, width) of the images.
        num_images: number of images per process.
        precision: "fp32" or "tf32", or "bf16" or "fp16" by autocast.
    """
    tracker = MemoryTracker()
    with FakeTensorMode(), LargestOutputs():
        detector = zoo.build(entry).train()
        images, targets = training_batch(len(detector.classes), size, num_images)
        optimizer = sgd(detector)
        for tensor in [*detector.parameters(), *detector.buffers(), *images]:
            tracker.add(tensor)
        model = tracker.now
        with tracker:
            for _ in range(2):  # the optimiser's momentum exists from the second step on
                half = precision in ("bf16", "fp16")
                autocast = CudaAutocast(DTYPES[precision]) if half else nullcontext()
                training_step(partial(_losses, detector), images, targets, optimizer, autocast)
    return {"predicted_gb": tracker.peak / 2**30, "model_gb": model / 2**30}


def _losses(
    detector: Detector, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Compute `Detector.forward` without the checks that read values of targets."""
    batch = detector.normalizer(images)
    boxes = detector.place(targets, batch.offsets)
    levels = detector.network(batch)
    return detector.loss(levels, detector.assign(detector.points(levels, batch), boxes))


class MemoryTracker(TorchDispatchMode):
    """Counts the bytes of all storages that are created while it is active, until they are freed.

    `now` and `peak` are in bytes; `add` counts a tensor that existed before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def add(self, tensor: Tensor) -> None:
        """Count a tensor's storage, once, until it is freed."""
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._alive and self._alive[key]() is storage:
            return
        size = -(-storage.nbytes() // BLOCK) * BLOCK

        def freed(_: Any, key: int = key, size: int = size) -> None:
            self.now -= size
            self._alive.pop(key, None)

        self._alive[key] = weakref.ref(storage, freed)
        self.now += size
        self.peak = max(self.peak, self.now)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor):
                self.add(value)
        return result


class LargestOutputs(TorchDispatchMode):
    """Gives outputs whose length depends on values the largest possible length.

    A loss selects the positive locations, which are few; counting all locations adds a few
    megabytes.
    """

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is aten.nonzero.default:
            return _all_indices(args[0])
        if func is aten.bincount.default:
            return torch.empty_like(args[0], dtype=torch.int64)
        if func in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default):
            indices: list[Tensor | None] = []
            for index in args[1]:
                boolean = index is not None and index.dtype == torch.bool
                indices += _all_indices(index).unbind(1) if boolean else [index]
            args = (args[0], indices, *args[2:])
        return func(*args, **(kwargs or {}))


def _all_indices(mask: Tensor) -> Tensor:
    return torch.empty(mask.numel(), mask.dim(), dtype=torch.int64, device=mask.device)


class CudaAutocast(TorchFunctionMode):
    """Applies the type rules of CUDA's autocast to tensors of the CPU, whose own rules differ.

    Torch refuses `torch.autocast("cuda")` without a GPU. Code that disables autocast for a part of
    the network also disables this.

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
        if id(tensor) not in self._weights:  # a weight is cast once for all uses
            self._weights[id(tensor)] = tensor.to(self.dtype)
        return self._weights[id(tensor)]

    def _raise(self, tensor: Tensor) -> Tensor:
        return tensor.float() if tensor.dtype == self.dtype else tensor
