"""Post-training quantisation of an exported file to int8, by NNCF."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fcos.export_formats import METADATA

CONVOLUTIONS = ("Conv", "Convolution", "GroupConvolution")
Run = Callable[[np.ndarray], Sequence[np.ndarray]]  # from the graph's input to its outputs


class AccuracyControl(NamedTuple):
    """A limit on the loss of accuracy by quantisation: layers that exceed it stay in float32.

    Attributes:
        measure: the accuracy of a graph on some images, given by their positions.
        images: the number of images.
        max_drop: the largest allowed difference from the accuracy in float32, in the unit of
            `measure`.
    """

    measure: Callable[[Run, Iterable[int]], float]
    images: int
    max_drop: float


class Node(NamedTuple):
    """An operation of a graph: its name and kind, and the values that it reads and writes."""

    name: str
    kind: str
    inputs: Sequence[str]
    outputs: Sequence[str]


def outside_the_network(nodes: Sequence[Node]) -> list[str]:
    """Return the operations before the first or after the last convolution, which stay in float32.

    Normalisation, decoding and NMS are there: int8 has too few steps for coordinates.
    """
    network = [node for node in nodes if node.kind in CONVOLUTIONS]
    inside = _reached(nodes, network, forward=True) & _reached(nodes, network, forward=False)
    return [node.name for node in nodes if node.name not in inside]


def _reached(nodes: Sequence[Node], start: Iterable[Node], forward: bool) -> set[str]:
    """Return the names of `start` and of all nodes that depend on it, or that it depends on."""
    by_value: dict[str, list[Node]] = {}
    for node in nodes:
        for value in node.inputs if forward else node.outputs:
            by_value.setdefault(value, []).append(node)
    names: set[str] = set()
    waiting = list(start)
    while waiting:
        node = waiting.pop()
        if node.name not in names:
            names.add(node.name)
            for value in node.outputs if forward else node.inputs:
                waiting += by_value.get(value, [])
    return names


def quantize(
    model: Any,
    nodes: Sequence[Node],
    dataset: Any,
    runner: Callable[[Any], Run],
    control: AccuracyControl | None,
    fast_bias_correction: bool,
) -> Any:
    """Quantise the convolutional network of an OpenVINO or ONNX model.

    Activations are asymmetric where they have a sign (NNCF's mixed preset). The overflow fix keeps
    weights to half of their range, as processors without VNNI add pairs of products in 16 bits,
    which would saturate.

    Args:
        model: a model of OpenVINO or ONNX.
        nodes: its operations.
        dataset: inputs to calibrate with.
        runner: makes a function that runs a model of NNCF.
        control: the limit on the loss of accuracy; None for no limit.
        fast_bias_correction: ignore the errors of preceding layers when biases are corrected, which
            takes less time and loses more AP; NNCF supports nothing else for ONNX.
    """
    import nncf

    nncf.set_log_level(logging.ERROR)
    settings: dict[str, Any] = {
        "preset": nncf.QuantizationPreset.MIXED,
        "fast_bias_correction": fast_bias_correction,
        "ignored_scope": nncf.IgnoredScope(names=outside_the_network(nodes), validate=False),
    }
    advanced = nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE)
    if control is None:
        return nncf.quantize(model, dataset, advanced_parameters=advanced, **settings)
    measure = control.measure
    return nncf.quantize_with_accuracy_control(
        model,
        dataset,
        nncf.Dataset(range(control.images)),
        lambda graph, positions: (measure(runner(graph), positions), None),
        max_drop=control.max_drop,
        drop_type=nncf.DropType.ABSOLUTE,
        advanced_quantization_parameters=advanced,
        **settings,
    )


def quantize_openvino(
    path: Path,
    out: Path,
    images: Iterable[np.ndarray],
    description: Mapping[str, Any],
    control: AccuracyControl | None = None,
    fast_bias_correction: bool = False,
) -> None:
    """Quantise an .xml file; `images` are inputs of its graph, to calibrate with."""
    import nncf
    import openvino

    model = openvino.Core().read_model(path)
    nodes = [
        Node(
            node.get_friendly_name(),
            node.get_type_name(),
            [value.get_node().get_friendly_name() for value in node.input_values()],
            [node.get_friendly_name()],
        )
        for node in model.get_ordered_ops()
        if node.get_type_name() not in ("Constant", "Parameter", "Result")
    ]

    def runner(compiled: Any) -> Run:
        return lambda images: compiled(images).to_tuple()

    inputs = nncf.Dataset(images)
    quantized = quantize(model, nodes, inputs, runner, control, fast_bias_correction)
    quantized.set_rt_info(json.dumps(dict(description)), METADATA)
    openvino.save_model(quantized, str(out), compress_to_fp16=False)


def quantize_onnx(
    path: Path,
    out: Path,
    images: Iterable[np.ndarray],
    description: Mapping[str, Any],
    control: AccuracyControl | None = None,
) -> None:
    """Quantise an ONNX file, with QuantizeLinear and DequantizeLinear around its convolutions."""
    import nncf
    import onnx
    import onnxruntime

    model = onnx.load(path)
    nodes = [
        Node(node.name, node.op_type, list(node.input), list(node.output))
        for node in model.graph.node
        if node.op_type != "Constant"
    ]

    def runner(graph: Any) -> Run:
        session = onnxruntime.InferenceSession(
            graph.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        return lambda images: session.run(None, {"images": images})

    inputs = nncf.Dataset(images, lambda image: {"images": image})
    quantized = quantize(model, nodes, inputs, runner, control, True)
    onnx.helper.set_model_props(quantized, {METADATA: json.dumps(dict(description))})
    onnx.save(quantized, out)
