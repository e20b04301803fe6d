"""A detector as one graph of fixed shapes, for runtimes that know nothing of this package."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.deformable import DeformConv2d
from fcos.boxes import Size
from fcos.detector import Detector
from fcos.postprocess import Candidates
from fcos.preprocess import ImageBatch

OUTPUTS = ["boxes", "scores", "labels"]
OPSET = 20  # of ONNX; deformable convolutions are there from 19 on


class FixedDetector(nn.Module):
    """`detector(images)` for images of one size, with tensors of fixed shape as its result.

    This is a copy of the detector with the backbone's norms fused into its convolutions.

    Args:
        detector: in float32, on the CPU; it is copied.
        size: (height, width) of the images.
    """

    def __init__(self, detector: Detector, size: Size) -> None:
        super().__init__()
        self.detector = copy.deepcopy(detector).fuse().requires_grad_(False)
        self.detector.card = None
        self.size = size
        for module in self.detector.modules():
            if isinstance(module, DeformConv2d):
                module.use_gather = False

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detect in images (N, 3, H, W), RGB, float32 0..1.

        Returns:
            Boxes (N, D, 4) xyxy in pixels of the images, scores (N, D) sorted from best to worst,
            and labels (N, D) int64. D is the decoder's `max_detections`, or fewer where there are
            fewer candidates. Places without a detection have score -1.
        """
        detector, sizes = self.detector, [self.size] * len(images)
        batch = ImageBatch(self._padded(images), sizes, detector.normalizer.layout(sizes)[1])
        candidates = detector.candidates(detector.network(batch), batch)
        boxes, scores, labels = detector.decoder.select(candidates, sizes).best(
            detector.decoder.max_detections
        )
        return boxes, scores, labels

    def _padded(self, images: Tensor) -> Tensor:
        """The network's input, padded as `ImageNormalizer` does it."""
        rule = self.detector.normalizer
        (height, width), [(top, left)] = rule.layout([self.size])
        bottom, right = height - self.size[0] - top, width - self.size[1] - left
        border = (left, right, top, bottom)
        if rule.square:  # with black
            return rule.normalize(F.pad(images, border))
        return F.pad(rule.normalize(images), border)


def program(detector: Detector, size: Size, images: int = 1) -> torch.export.ExportedProgram:
    """Trace a detector of fixed shapes by `torch.export`; see `FixedDetector`.

    Args:
        detector: in float32, on the CPU.
        size: (height, width) of the images.
        images: the batch size.
    """
    example = torch.zeros(images, 3, *size)
    with quiet():
        return torch.export.export(FixedDetector(detector, size), (example,), strict=False)


def write_onnx(graph: torch.export.ExportedProgram, path: str | Path) -> None:
    """Write a graph as ONNX, by onnxscript."""
    with quiet():
        torch.onnx.export(
            graph,
            f=str(path),
            dynamo=True,
            input_names=["images"],
            output_names=OUTPUTS,
            opset_version=OPSET,
            external_data=False,
            custom_translation_table=_translations(),
            verbose=False,
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the exporters' warnings about their own deprecations; errors are still raised."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _translations() -> dict[Any, Any]:
    """Translations to ONNX of operators that torch.onnx does not know."""
    import onnxscript

    op: Any = onnxscript.opset20
    real = onnxscript.FLOAT.dtype

    def nms(boxes: Any, scores: Any, iou_threshold: float) -> Any:
        single = op.Unsqueeze(op.Cast(boxes, to=real), op.Constant(value_ints=[0]))
        ranked = op.Unsqueeze(op.Cast(scores, to=real), op.Constant(value_ints=[0, 1]))
        found = op.NonMaxSuppression(
            single,
            ranked,
            op.Constant(value_ints=[torch.iinfo(torch.int64).max]),
            op.Constant(value_floats=[iou_threshold]),
        )
        return op.Gather(found, op.Constant(value_int=2), axis=1)

    def sort(x: Any, stable: bool, dim: int = -1, descending: bool = False) -> Any:
        size = op.Constant(value_ints=[x.shape[dim]])
        return op.TopK(x, size, axis=dim, largest=int(descending))  # stable, by ONNX's definition

    def deform_conv2d(
        x: Any,
        weight: Any,
        offset: Any,
        mask: Any,
        bias: Any,
        stride_y: int,
        stride_x: int,
        pad_y: int,
        pad_x: int,
        dilation_y: int,
        dilation_x: int,
        groups: int,
        offset_groups: int,
        use_mask: bool,
    ) -> Any:
        return op.DeformConv(
            x,
            weight,
            offset,
            bias,
            mask,
            strides=[stride_y, stride_x],
            pads=[pad_y, pad_x, pad_y, pad_x],
            dilations=[dilation_y, dilation_x],
            group=groups,
            offset_group=offset_groups,
        )

    operators: Any = torch.ops
    return {
        operators.torchvision.nms.default: nms,
        operators.torchvision.deform_conv2d.default: deform_conv2d,
        operators.aten.sort.stable: sort,
    }


def detections(outputs: tuple[Tensor, Tensor, Tensor]) -> list[dict[str, Tensor]]:
    """Convert the outputs of a graph to the dicts that `Detector` returns."""
    return Candidates(*outputs).unpad()
