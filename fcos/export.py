"""A detector as one graph, for runtimes that know nothing of this package."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torchvision.ops import nms

from backbones.deformable import DeformConv2d
from fcos.boxes import Size
from fcos.detector import Detector
from fcos.export_formats import check_torch, quiet, too_old_torch
from fcos.postprocess import FAR, PADDING, Candidates, Decoder
from fcos.preprocess import ImageBatch, LongestSide, ShortestSide

LARGEST = 1 << 16  # pixels per side
FEWEST = 1000  # candidates per level of a decoder without a limit
SENTINELS = 2  # torchvision tells the tracer that NMS keeps at least two boxes


class GraphDecoder(Decoder):
    """A `Decoder` whose operations are the same for any number of images of one size.

    Args:
        classes: the number of classes.
        batched_nms: use the operator `fcos_zoo::nms`, which has a counterpart in ONNX; otherwise
            torchvision's NMS, with the boxes of each image shifted apart.
        settings: arguments of `Decoder`.
    """

    def __init__(self, classes: int, batched_nms: bool, **settings: object) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]
        self.classes = 1 if self.class_agnostic else classes
        self.batched_nms = batched_nms

    def per_side(self, pairs: Sequence[tuple[float, float]] | Tensor, boxes: Tensor) -> Tensor:
        if not isinstance(pairs, Tensor):
            pairs = scalars(pairs[0], torch.float32)  # the same for all images
        return pairs.float().flip(0).repeat(2)[None, None]

    def top(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Always return `top_k`: a size-dependent number would enter all later expressions."""
        count = scores.shape[1]
        k = self.top_k or self.max_candidates or FEWEST
        best, index = F.pad(scores, (0, k), value=PADDING).topk(k, dim=1)
        return best, index.clamp(max=count - 1)

    def nms_mask(self, candidates: Candidates, counts: Sequence[int] | None) -> Tensor:
        boxes, scores, labels = candidates
        boxes = boxes.clamp(-FAR, FAR)
        if self.plus_one:
            boxes = boxes + boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
        if self.class_agnostic:
            labels = torch.zeros_like(labels)
        if self.batched_nms:
            return torch.ops.fcos_zoo.nms(boxes, scores, labels, self.nms_threshold, self.classes)
        return shifted_nms(boxes, scores, labels, self.nms_threshold, self.classes)


def shifted_nms(
    boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, classes: int
) -> Tensor:
    """Return (N, K): which boxes survive class-wise NMS in their image; unused places do not."""
    images, places = scores.shape
    group = labels + classes * torch.arange(images)[:, None]
    boxes = boxes.double()
    span = boxes.max() - boxes.min() + 1
    shifted = (boxes + (group * span)[..., None]).flatten(0, 1)
    used = (scores.flatten() > PADDING).nonzero()[:, 0]
    # Boxes that are far from all others, so that some are always kept.
    far = boxes.min() - span * torch.arange(2, 2 + SENTINELS)[:, None].expand(-1, 4)
    far = far + far.new_tensor([0.0, 0.0, 1.0, 1.0])
    end = images * places
    used = torch.cat((used, end + torch.arange(SENTINELS)))
    ranked = F.pad(scores.flatten().double(), (0, SENTINELS))
    keep = used[nms(torch.cat((shifted, far))[used], ranked[used], iou_threshold)]
    kept = torch.zeros(end + SENTINELS, dtype=torch.bool).index_fill(0, keep, True)
    return kept[:end].view(images, places)


@torch.library.custom_op("fcos_zoo::nms", mutates_args=())
def _batched_nms(
    boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, classes: int
) -> Tensor:
    return shifted_nms(boxes, scores, labels, iou_threshold, classes)


@_batched_nms.register_fake
def _(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, classes: int) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


class ExportedDetector(nn.Module):
    """`detector(images)` for a batch of images of one size, with tensors as its result.

    This is a copy of the detector with the backbone's norms fused into its convolutions.

    Args:
        detector: on the CPU; it is copied.
        preprocessing: resize images to the test-time size, and return boxes in their own pixels.
        own_sizes: make the padded height and width separate symbols of the graph instead of
            functions of the image's size. `preprocessing` implies it.
        batched_nms: see `GraphDecoder`.
        dtype: type of the network; box regression, decoding, input and output stay in float32.
    """

    def __init__(
        self,
        detector: Detector,
        preprocessing: bool = False,
        own_sizes: bool = True,
        batched_nms: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.detector = copy.deepcopy(detector).fuse().requires_grad_(False).to(dtype)
        self.detector.card = None
        self.detector.decoder = GraphDecoder(
            len(detector.classes), batched_nms, **vars(detector.decoder)
        )
        self.preprocessing = preprocessing
        self.own_sizes = own_sizes or preprocessing
        for module in self.detector.modules():
            if isinstance(module, DeformConv2d):
                module.use_gather = False

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detect in N images of one size, RGB.

        Args:
            images: (N, 3, H, W) float32 0..1, or with `preprocessing` (N, H, W, 3) uint8.

        Returns:
            Boxes (N, D, 4) xyxy in pixels of the images, scores (N, D) sorted from best to worst,
            and labels (N, D) int64. D is the decoder's `max_detections`, or fewer where there are
            fewer candidates. Places without a detection have score -1.
        """
        if not self.preprocessing:
            return self._detect(images)
        images = images.permute(0, 3, 1, 2)
        original = scalars(images.shape[-2:], torch.float64)
        resized = resized_size(self.detector.resize, original)
        height, width = resized.tolist()
        for side in (height, width):
            torch._check(side >= 1)
            torch._check(side < LARGEST)
        pixels = resize(images, (height, width), self.detector.resize_method)
        scale = original / resized
        if isinstance(self.detector.resize, LongestSide):
            scale = (original.max() / self.detector.resize.size).expand(2)
        return self._detect(pixels, original, scale)

    def _detect(
        self, images: Tensor, original: Tensor | None = None, scale: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        detector, size = self.detector, (images.shape[-2], images.shape[-1])
        padded, corner = self._padded(images)
        batch = ImageBatch(padded, [size], [corner])
        candidates = detector.candidates(detector.network(batch), batch)
        sizes: Any = [size] if original is None else original
        selected = detector.decoder.select(candidates, sizes, scale)  # type: ignore[arg-type]
        boxes, scores, labels = selected.best(detector.decoder.max_detections)
        return boxes, scores, labels

    def _padded(self, images: Tensor) -> tuple[Tensor, Size]:
        """Return the network's input, padded like `ImageNormalizer`, and the image's corner."""
        rule, (height, width) = self.detector.normalizer, images.shape[-2:]
        divisor, excess = rule.divisor, int(rule.square)
        sides: list[Any] = [height, width]
        if rule.square:
            sides = [torch.sym_max(height, width)] * 2
        blocks = [(side - excess + divisor - 1) // divisor for side in sides]
        if self.own_sizes:
            # Read from a tensor, they are new symbols, with which tracing takes half the time. They
            # may also be 1, unlike symbolic sizes of the input.
            blocks = scalars(blocks, torch.int64).tolist()
            for side, image_side in zip(blocks, (height, width), strict=True):
                torch._check(side >= 1)
                torch._check(side < LARGEST)
                torch._check(side * divisor + excess >= image_side)
        bottom, right = (
            count * divisor + excess - side
            for count, side in zip(blocks, (height, width), strict=True)
        )
        if not rule.square:
            return F.pad(rule.normalize(images), (0, right, 0, bottom)), (0, 0)
        top, left = rounded_half(bottom), rounded_half(right)
        border = (left, right - left, top, bottom - top)
        return rule.normalize(F.pad(images, border)), (top, left)  # padded with black


def scalars(values: Sequence[float], dtype: torch.dtype) -> Tensor:
    """Make a tensor of numbers, some of which may be symbols."""
    return torch.cat([torch.full((1,), value, dtype=dtype) for value in values])


def rounded_half(number: int) -> int:
    """Return `round(number / 2)` of a number that may be a symbol: halves are rounded to even."""
    return number // 2 + (number % 2) * (number // 2 % 2)


def resized_size(rule: ShortestSide | LongestSide, size: Tensor) -> Tensor:
    """Apply a resize rule to a tensor: (height, width) float64 -> (2,) int64."""
    short, long = size.min(), size.max()
    if isinstance(rule, LongestSide):
        return (size * (rule.size / long) + 0.5).long().clamp(min=1)
    if rule.rounding == "nearest":
        scaled = (size * (rule.size / short)).where(size != short, float(rule.size))
        shrunk = scaled * (rule.longest / scaled.max())
        return (shrunk.where(scaled.max() > rule.longest, scaled) + 0.5).long().clamp(min=1)
    if rule.rounding == "floor":
        factor = torch.minimum(rule.size / short, rule.longest / long)
        return (size * factor).long().clamp(min=1)
    shrunk = (rule.longest * short / long).round().clamp(min=1)
    side = shrunk.where(long / short * rule.size > rule.longest, float(rule.size))
    return (side * size / short).where(size != short, side).long()


def resize(images: Tensor, size: Size, method: str) -> Tensor:
    """Resize a batch as `resize_image` does: (N, 3, H, W) uint8 -> float 0..1.

    It is done by two products with matrices, since runtimes interpolate differently.
    """
    antialias, rounded = method in ("pil", "antialias"), method in ("pil", "opencv")
    height, width = images.shape[-2:]
    columns = images.float() @ resampling(width, size[1], antialias).T
    if method == "pil":
        columns = columns.round()  # between its two passes
    pixels = resampling(height, size[0], antialias) @ columns
    return (pixels.round() if rounded else pixels) / 255


def resampling(count: int, resized: int, antialias: bool) -> Tensor:
    """Return the matrix (resized, count) of bilinear interpolation along one side.

    With `antialias` the triangle is as wide as a resized pixel where that is wider, as in Pillow.
    """
    scale = scalars([count], torch.float64) / scalars([resized], torch.float64)
    centres = (torch.arange(resized, dtype=torch.float64) + 0.5) * scale
    pixels = torch.arange(count, dtype=torch.float64) + 0.5
    if antialias:
        reach = scale.clamp(min=1)
    else:
        reach = torch.ones_like(scale)
        centres = torch.minimum(centres.clamp(min=0.5), scalars([count], torch.float64) - 0.5)
    weights = (1 - (pixels - centres[:, None]).abs() / reach).clamp(min=0)
    return (weights / weights.sum(dim=1, keepdim=True)).float()


def program(
    detector: Detector,
    size: Size | None = None,
    images: int | None = None,
    preprocessing: bool = False,
    batched_nms: bool = False,
    dtype: torch.dtype = torch.float32,
    own_sizes: bool = True,
) -> torch.export.ExportedProgram:
    """Trace a detector by `torch.export`; see `ExportedDetector`.

    Args:
        detector: on the CPU.
        size: (height, width) of all images; None for any size.
        images: the batch size; None for any.
        preprocessing, batched_nms, dtype, own_sizes: see `ExportedDetector`.

    Raises:
        RuntimeError: torch is too old; 2.11 only exports detectors for images of a fixed size.
    """
    check_torch()
    height, width = size or (200, 330)
    example = torch.zeros(images or 2, 3, height, width)
    if preprocessing:
        example = example.permute(0, 2, 3, 1).to(torch.uint8)
    dynamic = torch.export.Dim.DYNAMIC
    dims = {0: dynamic} if images is None else {}
    if size is None:
        dims |= {1: dynamic, 2: dynamic} if preprocessing else {2: dynamic, 3: dynamic}
    own_sizes = own_sizes and size is None
    model = ExportedDetector(detector, preprocessing, own_sizes, batched_nms, dtype)
    try:
        with quiet():
            return torch.export.export(
                model,
                (example,),
                dynamic_shapes=(dims,),
                strict=False,
                prefer_deferred_runtime_asserts_over_guards=True,
            )
    except GuardOnDataDependentSymNode:
        raise too_old_torch("detectors for images of any size") from None
