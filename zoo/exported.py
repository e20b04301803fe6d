"""An exported file as a detector: `zoo.load("model.onnx")`."""

from __future__ import annotations

import importlib
import json
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fcos.detections import Detections
from fcos.images import ImageSource, check_options, image_batches
from fcos.postprocess import Candidates, Decoder
from fcos.preprocess import LongestSide, ShortestSide, as_float, resize_image
from zoo.registry import card, names

SUFFIXES = (".onnx", ".xml", ".pt2")
METADATA = "fcos_zoo"  # as `fcos.export_formats` writes it
HINTS = {"bf16": "bf16", "fp16": "f16"}  # OpenVINO's precision hints
Run = Callable[[np.ndarray], Sequence[np.ndarray]]


class ExportedDetector:
    """A detector in a file that `fcos-zoo export` wrote, run by the runtime of its format.

    Attributes:
        path: the file.
        runtime: the software that runs it, with its version.
        description: the file's metadata; see `fcos.export_formats.describe`.
        classes: class names by index.
        precision: precision of the network.
        decoder: the decoder's settings at export; it is part of the file's graph.
        card: the facts of its entry, or None if the zoo does not have it.
    """

    def __init__(self, path: Path, runtime: str, description: dict[str, Any], run: Run) -> None:
        self.path = path
        self.runtime = runtime
        self.description = description
        self.run = run
        self.classes = tuple(description["classes"])
        self.precision = description["precision"]
        self.decoder = Decoder(**description["decoder"])
        entry = description["entry"]
        self.card = card(entry) if entry in names() else None
        resize = dict(description["input"]["resize"])
        self.resize_method = resize.pop("method")
        rule = LongestSide if resize.pop("side") == "longest" else ShortestSide
        self.resize = rule(**resize)
        self.preprocessing = bool(description["preprocessing"])
        number, *sides = description["input"]["shape"]
        self.images = number if isinstance(number, int) else None
        fixed = not self.preprocessing and isinstance(sides[-1], int)
        self.size = (sides[1], sides[2]) if fixed else None

    def detect(
        self,
        images: ImageSource | Iterable[ImageSource],
        score_threshold: float = 0.0,
        batch_size: int = 1,
        tta: Sequence[object] = (),
    ) -> list[Detections]:
        """Detect objects in images of any kind and size; see `fcos.Detector.detect`.

        Images of different sizes are never padded into a batch. There is no test-time augmentation.
        """
        check_options(score_threshold, batch_size)
        detections: list[Detections] = []
        for loaded in image_batches(images, batch_size):
            detections += [
                Detections.of(result, image, self.classes, score_threshold)
                for image, result in zip(loaded, self.find(loaded, tta), strict=True)
            ]
        return detections

    def find(self, images: Sequence[Tensor], tta: Sequence[object] = ()) -> list[dict[str, Tensor]]:
        """Detect in (3, H, W) images: {"boxes", "scores", "labels"} of each, in its own pixels."""
        if tta:
            raise ValueError(f"{self.path}: an exported file has no test-time augmentation")
        prepared = [self.prepare(image) for image in images]
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, (array, _) in enumerate(prepared):
            groups.setdefault(array.shape, []).append(index)
        found: dict[int, dict[str, Tensor]] = {}
        for members in groups.values():
            step = self.images or len(members)
            for start in range(0, len(members), step):
                chosen = members[start : start + step]
                filled = chosen + chosen[-1:] * ((self.images or 0) - len(chosen))
                results = self.detect_arrays(np.stack([prepared[index][0] for index in filled]))
                found.update(zip(chosen, results, strict=False))
        return [
            self._in_own_pixels(found[index], image, prepared[index][1])
            for index, image in enumerate(images)
        ]

    def detect_arrays(self, images: np.ndarray) -> list[dict[str, Tensor]]:
        """Run the graph on its input, an array of the shape and type that `description` states."""
        outputs = (torch.from_numpy(np.array(output)) for output in self.run(images))
        return Candidates(*outputs).unpad()

    def prepare(self, image: Tensor) -> tuple[np.ndarray, tuple[float, float] | None]:
        """Return the graph's input for an image, and the (y, x) factors back to the image."""
        if self.preprocessing:
            if image.dtype != torch.uint8:
                image = (image * 255).round().clamp(0, 255).to(torch.uint8)
            return image.permute(1, 2, 0).cpu().numpy(), None
        original = (image.shape[-2], image.shape[-1])
        resized = self.resize(*original)
        scale = self.resize.back(original, resized)
        if self.size and (resized[0] > self.size[0] or resized[1] > self.size[1]):
            factor = min(self.size[0] / original[0], self.size[1] / original[1])
            resized = (max(1, int(original[0] * factor)), max(1, int(original[1] * factor)))
            scale = (original[0] / resized[0], original[1] / resized[1])
        pixels = as_float(resize_image(image, resized, self.resize_method)).cpu()
        if self.size and resized != self.size:
            canvas = torch.tensor(self.description["input"]["fill"])[:, None, None]
            canvas = canvas.expand(3, *self.size).contiguous()
            canvas[:, : resized[0], : resized[1]] = pixels
            pixels = canvas
        return pixels.numpy(), scale

    def _in_own_pixels(
        self, found: dict[str, Tensor], image: Tensor, scale: tuple[float, float] | None
    ) -> dict[str, Tensor]:
        if scale is None:
            return found
        height, width = image.shape[-2:]
        boxes = found["boxes"] * found["boxes"].new_tensor([scale[1], scale[0]] * 2)
        boxes = torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height] * 2))
        kept = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        return {"boxes": boxes[kept]} | {key: found[key][kept] for key in ("scores", "labels")}


def load(path: str | Path) -> ExportedDetector:
    """Load a file that `fcos-zoo export` wrote: .onnx, .xml of OpenVINO, or .pt2.

    It has `detect` and `classes` like an `fcos.Detector`. The runtime of its format runs it on the
    CPU, with as many threads as torch has.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: the runtime of its format is not installed.
        ValueError: the file is damaged, or was not written by `fcos-zoo export`.
    """
    if "://" in str(path):
        raise ValueError(f"{path} is an address: download the file, and give its path")
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} is not an exported file: expected {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}; check the path")
    runtime, text, run = {".onnx": _onnx, ".xml": _openvino, ".pt2": _pt2}[path.suffix](path)
    if not text:
        raise ValueError(f"{path} was not written by `fcos-zoo export`: it has no description")
    return ExportedDetector(path, runtime, json.loads(text), run)


def runtime_package(name: str, extra: str) -> Any:
    """Import the package that runs or writes a format.

    Raises:
        ImportError: it is not installed; the message names the extra that installs it.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ImportError(f"{name} is not installed: pip install 'fcos-zoo[{extra}]'") from None


def _damaged(path: Path, reason: object) -> ValueError:
    text = shorten(str(reason).strip().rpartition("\n")[2], 200)
    return ValueError(
        f"{path} is damaged or of another program ({text}): export the detector again"
    )


def _onnx(path: Path) -> tuple[str, str, Run]:
    ort = runtime_package("onnxruntime", "onnx")
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except ort.capi.onnxruntime_pybind11_state.NotImplemented:
        raise RuntimeError(
            f"onnxruntime {ort.__version__} cannot run deformable convolutions: "
            "install 1.25 or newer, which needs Python 3.11"
        ) from None
    except Exception as error:  # each of its own class
        raise _damaged(path, error) from None
    text = session.get_modelmeta().custom_metadata_map.get(METADATA, "")
    return f"ONNX Runtime {ort.__version__}", text, lambda x: session.run(None, {"images": x})


def _openvino(path: Path) -> tuple[str, str, Run]:
    openvino = runtime_package("openvino", "openvino")
    core = openvino.Core()
    if not path.with_suffix(".bin").is_file():
        raise FileNotFoundError(f"{path.with_suffix('.bin')} is missing: {path} needs it beside it")
    try:
        model = core.read_model(path)
    except RuntimeError as error:
        raise _damaged(path, error) from None
    text = model.get_rt_info(METADATA).astype(str) if model.has_rt_info(METADATA) else "{}"
    precision = json.loads(text).get("precision")
    # By default OpenVINO uses half precision if the processor can, which changes boxes.
    settings = {
        "INFERENCE_PRECISION_HINT": HINTS.get(precision, "f32"),
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()

    def run(images: np.ndarray) -> list[np.ndarray]:
        nonlocal request
        # With one thread, a synchronous call that fails returns the outputs of the previous call.
        request.start_async([images])
        try:
            request.wait()
        except RuntimeError as error:
            # A compiled model that has failed once fails on every later image.
            request = core.compile_model(model, "CPU", settings).create_infer_request()
            raise RuntimeError(
                f"{path}: OpenVINO failed on an array of shape {images.shape}: "
                f"{str(error).strip().splitlines()[-1]}"
            ) from None
        return [request.get_output_tensor(index).data for index in range(3)]

    version = openvino.__version__.split("-")[0]
    return f"OpenVINO {version}", text if precision else "", run


def _pt2(path: Path) -> tuple[str, str, Run]:
    if not zipfile.is_zipfile(path):
        raise _damaged(path, "no archive")
    with zipfile.ZipFile(path) as archive:
        if any("/aotinductor/" in name for name in archive.namelist()):
            return _aoti(path)
    extra = {METADATA: ""}
    try:
        module = torch.export.load(path, extra_files=extra).module()
    except Exception as error:  # of any class, for archives of another kind
        raise _damaged(path, error) from None

    def run(images: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            return [output.numpy() for output in module(torch.from_numpy(images))]

    return f"PyTorch {torch.__version__.split('+')[0]}", extra[METADATA], run


def _aoti(path: Path) -> tuple[str, str, Run]:
    import torch._inductor

    compiled = torch._inductor.aoti_load_package(str(path))

    def run(images: np.ndarray) -> list[np.ndarray]:
        images = np.ascontiguousarray(images)  # the compiled code ignores strides
        try:
            return [output.numpy() for output in compiled(torch.from_numpy(images))]
        except RuntimeError as error:
            raise RuntimeError(
                f"{path}: the compiled code fails on an array of shape {images.shape}; export with "
                f"--format pt2 or onnx for small images ({str(error).splitlines()[0]})"
            ) from None

    text = compiled.loader.get_metadata().get(METADATA, "")
    return f"AOTInductor {torch.__version__.split('+')[0]}", text, run
