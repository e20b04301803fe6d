"""Files of exported detectors, whose metadata describe their input and output."""

from __future__ import annotations

import inspect
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from fcos.boxes import Size
from fcos.detector import Detector
from fcos.preprocess import LongestSide

OUTPUTS = ["boxes", "scores", "labels"]
OPSET = 20  # of ONNX, which has deformable convolutions from 19 on
# Boxes of exactly the threshold's IoU are kept, but OpenVINO suppresses them.
NMS_MARGIN = 1e-6
METADATA = "fcos_zoo"  # key of the JSON description, or its file name in a .pt2


def check_torch() -> None:
    """Check that torch can trace a graph whose sizes depend on values, as those after NMS do.

    Raises:
        RuntimeError: torch is too old, such as 2.6.
    """
    options = inspect.signature(torch.export.export).parameters
    if "prefer_deferred_runtime_asserts_over_guards" not in options:
        raise too_old_torch("detectors")


def too_old_torch(what: str) -> RuntimeError:
    """Return the error that this version of torch cannot export something."""
    return RuntimeError(
        f"torch {torch.__version__} cannot export {what}: pip install -U torch torchvision"
    )


def describe(
    detector: Detector,
    size: Size | None = None,
    images: int | None = None,
    preprocessing: bool = False,
    precision: str = "fp32",
) -> dict[str, Any]:
    """Return the facts needed to prepare images for an exported file and to read its output."""
    rule = detector.resize
    resize = {"side": "longest" if isinstance(rule, LongestSide) else "shortest"} | vars(rule)
    mean = detector.normalizer.mean.flatten() / detector.normalizer.value_range
    filling = [0.0] * 3 if detector.normalizer.square else mean.tolist()
    if detector.normalizer.channel_order == "BGR":
        filling.reverse()
    number, (height, width) = images or "batch", size or ("height", "width")
    values, shape = "float32 0..1, RGB, not normalised", [number, 3, height, width]
    if preprocessing:
        values, shape = "uint8 0..255, RGB", [number, height, width, 3]
    return {
        "entry": detector.card.name if detector.card else None,
        "classes": list(detector.classes),
        "precision": precision,
        "preprocessing": preprocessing,
        "input": {
            "shape": shape,
            "values": values,
            "resize": {**resize, "method": detector.resize_method},
            "fill": filling,
        },
        "output": {
            "boxes": "float32 (batch, D, 4): x1, y1, x2, y2 in pixels of the input",
            "scores": "float32 (batch, D): in descending order; -1 fills up the rest",
            "labels": "int64 (batch, D): indices of `classes`",
        },
        "decoder": dict(vars(detector.decoder)),
        "torch": torch.__version__,
    }


def write_pt2(
    graph: torch.export.ExportedProgram, path: str | Path, description: Mapping[str, Any]
) -> None:
    """Write a graph as a .pt2 file."""
    with quiet():
        torch.export.save(graph, path, extra_files={METADATA: json.dumps(description)})


def write_aoti(
    graph: torch.export.ExportedProgram, path: str | Path, description: Mapping[str, Any]
) -> None:
    """Compile a graph to machine code for this kind of CPU, in a .pt2 file, by AOTInductor.

    Its sizes must not be separate symbols, see `own_sizes` of `fcos.export.ExportedDetector`:
    Inductor reads the output of a convolution of such sizes in the wrong memory layout.
    """
    settings = {
        "aot_inductor.metadata": {METADATA: json.dumps(description)},
        "cpp.dynamic_threads": True,  # as many as torch has when the file is run
    }
    with quiet():
        torch._inductor.aoti_compile_and_package(
            graph, package_path=str(path), inductor_configs=settings
        )


def write_onnx(
    graph: torch.export.ExportedProgram, path: str | Path, description: Mapping[str, Any]
) -> None:
    """Write a graph as ONNX, by onnxscript. NMS must be batched in it, see `fcos.export`."""
    with quiet():
        model = torch.onnx.export(
            graph,
            dynamo=True,
            input_names=["images"],
            output_names=OUTPUTS,
            opset_version=OPSET,
            custom_translation_table=_translations(),
            verbose=False,
        )
        assert model is not None
        model.model.metadata_props[METADATA] = json.dumps(description)
        _name_sizes(model.model.graph, description["input"]["shape"])
        model.save(str(path), external_data=False)


def write_openvino(onnx: str | Path, path: str | Path, description: Mapping[str, Any]) -> None:
    """Write an ONNX file as OpenVINO's .xml, with its weights in a .bin beside it."""
    import openvino

    model = openvino.convert_model(str(onnx))
    model.set_rt_info(json.dumps(description), METADATA)
    half = description["precision"] == "fp16"
    openvino.save_model(model, str(path), compress_to_fp16=half)


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the exporters' notes about their own work; errors are still raised."""
    loggers = [logging.getLogger(name) for name in ("onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _name_sizes(graph: Any, shape: Sequence[int | str]) -> None:
    """Name the symbolic sizes of inputs and outputs, which the exporter calls s34 or the like."""
    import onnx_ir

    names = {
        str(symbol): name
        for symbol, name in zip(graph.inputs[0].shape, shape, strict=True)
        if isinstance(name, str)
    }
    for value in (*graph.inputs, *graph.outputs):
        value.shape = onnx_ir.Shape([names.get(str(side), side) for side in value.shape])


def _translations() -> dict[Any, Any]:
    """Return the translations to ONNX of operators that torch.onnx does not know."""
    import onnxscript

    op: Any = onnxscript.opset20

    def ints(*values: int) -> Any:
        return op.Constant(value_ints=values)

    def nms(boxes: Any, scores: Any, labels: Any, iou_threshold: float, classes: int) -> Any:
        """Apply ONNX's NMS, whose scores are those of each class: (N, C, K)."""
        label = op.Range(
            op.Constant(value_int=0), op.Constant(value_int=classes), op.Constant(value_int=1)
        )
        same = op.Equal(op.Unsqueeze(labels, ints(1)), op.Unsqueeze(label, ints(1)))
        none = op.Constant(value_float=-1.0)
        found = op.NonMaxSuppression(
            boxes,
            op.Where(same, op.Unsqueeze(scores, ints(1)), none),
            op.Shape(boxes, start=1, end=2),
            op.Constant(value_floats=[iou_threshold + NMS_MARGIN]),
            op.Constant(value_floats=[-0.5]),
        )  # (M, 3): image, class, box
        places = op.Gather(found, ints(0, 2), axis=1)
        kept = op.Expand(op.Constant(value_float=0.0), op.Shape(scores))
        ones = op.Expand(op.Constant(value_float=1.0), op.Shape(places, start=0, end=1))
        return op.Greater(op.ScatterND(kept, places, ones), op.Constant(value_float=0.0))

    def sort(x: Any, stable: bool, dim: int = -1, descending: bool = False) -> Any:
        size = op.Gather(op.Shape(x), ints(dim))
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

    def remainder(x: Any, divisor: Any) -> Any:
        return op.Mod(x, divisor)  # torch's translation knows no symbolic divisors

    operators: Any = torch.ops
    return {
        operators.fcos_zoo.nms.default: nms,
        operators.torchvision.deform_conv2d.default: deform_conv2d,
        operators.aten.sort.stable: sort,
        operators.aten.remainder.Scalar: remainder,
    }
