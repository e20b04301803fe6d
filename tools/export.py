"""An entry as one file for other runtimes: torch.export's (.pt2) or ONNX, proved beforehand."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

import zoo
from benchmarks.dataset import embedded, read_images
from fcos import Detector, LongestSide, ShortestSide, export
from fcos.boxes import Size
from fcos.detections import matches
from fcos.preprocess import as_float, resize_image
from tools.arguments import name_for_files, positive

FORMATS = ("pt2", "onnx")
PROVED_ON = 4  # photographs
NEEDED = 0.98  # of the detections must be found again
ONNX = ("onnx", "onnxscript", "onnxruntime")
Run = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the graph, run it on photographs beside the detector, keep it if both find the same."""
    options = _parser().parse_args(arguments)
    if "onnx" in options.format:
        need(ONNX)
    detector = zoo.get(options.name, options.weights)
    size: Size = tuple(options.size) if options.size else largest(detector)
    options.out.mkdir(parents=True, exist_ok=True)
    console = Console(markup=False, highlight=False, soft_wrap=True)
    with console.status(f"{options.name}: tracing"):
        graph = export.program(detector, size, options.images)
    for form in options.format:
        path = options.out / f"{name_for_files(options.name)}.{form}"
        draft = path.with_suffix(f".draft.{form}")
        try:
            with console.status(f"{path}: writing"):
                run = WRITERS[form](graph, draft)
            with console.status(f"{path}: comparing with the detector"):
                proof = prove(detector, run, size, options.images)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        facts = description(detector, size, options.images) | {"proof": proof}
        path.with_suffix(f".{form}.json").write_text(json.dumps(facts, indent=1))
        console.print(f"{path}, {path.stat().st_size / 1e6:.0f} MB: {proof}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fcos-zoo export", description=__doc__)
    parser.add_argument("name", help="an entry, see `fcos-zoo list`")
    parser.add_argument("--format", type=_formats, default=["pt2"], help="pt2, onnx or pt2,onnx")
    parser.add_argument("--weights", help="a path or address instead of the published file")
    parser.add_argument("--size", type=positive, nargs=2, metavar=("HEIGHT", "WIDTH"),
                        help="of the images; default: the largest lying picture's")  # fmt: skip
    parser.add_argument("--images", type=positive, default=1, help="at a time")
    parser.add_argument("--out", type=Path, default=Path("outputs/export"), help="folder to write")
    return parser


def _formats(text: str) -> list[str]:
    words = text.split(",")
    for word in words:
        if word not in FORMATS:
            raise argparse.ArgumentTypeError(f"no {word!r}; there are {', '.join(FORMATS)}")
    return words


def largest(detector: Detector) -> Size:
    """(height, width) in which every lying picture has its place after the test's resize."""
    rule = detector.resize
    return (rule.size, rule.longest) if isinstance(rule, ShortestSide) else (rule.size, rule.size)


def need(packages: Sequence[str]) -> None:
    """Tell now, and not after a minute of tracing, which of the extra's packages is missing.

    Raises:
        ImportError: one is.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ImportError(f"{package} is not installed: pip install 'fcos-zoo[export]'")


def write_pt2(graph: torch.export.ExportedProgram, path: Path) -> Run:
    """Write a graph, and give it back as it was read."""
    with export.quiet():
        torch.export.save(graph, path)
    module: Run = torch.export.load(path).module()
    return module


def write_onnx(graph: torch.export.ExportedProgram, path: Path) -> Run:
    """Write a graph as ONNX; it is run by onnxruntime on the CPU."""
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as LackingError

    export.write_onnx(graph, path)
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except LackingError:
        raise RuntimeError(
            f"onnxruntime {onnxruntime.__version__} has no deformable convolutions to prove the "
            "graph with: take 1.25 or newer, which needs Python 3.11"
        ) from None

    def run(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        boxes, scores, labels = session.run(export.OUTPUTS, {"images": images.numpy()})
        return torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(labels)

    return run


WRITERS: dict[str, Callable[[torch.export.ExportedProgram, Path], Run]] = {
    "pt2": write_pt2,
    "onnx": write_onnx,
}


def prove(detector: Detector, run: Run, size: Size, images: int) -> str:
    """Find the same in photographs by the detector and by its graph.

    Raises:
        RuntimeError: fewer than `NEEDED` of the detections are the same.
    """
    photos = read_images(embedded(), PROVED_ON)
    same = total = 0
    for photo in photos:
        image = as_float(resize_image(photo, size))
        batch = image.expand(images, -1, -1, -1).contiguous()
        for ours, theirs in zip(detector(list(batch)), export.detections(run(batch)), strict=True):
            same += matches(ours, theirs)
            total += max(len(ours["scores"]), len(theirs["scores"]))
    if same < NEEDED * total:
        raise RuntimeError(
            f"the graph finds {same} of {total} detections as the detector does; it was not kept"
        )
    if not total:
        return f"nothing was found on {len(photos)} photographs: not proved"
    return f"{same} of {total} detections on {len(photos)} photographs are the same"


def description(detector: Detector, size: Size, images: int) -> dict[str, Any]:
    """What somebody must know who feeds the graph and reads its answers."""
    rule = detector.resize
    resize = {"side": "longest" if isinstance(rule, LongestSide) else "shortest"} | vars(rule)
    mean = detector.normalizer.mean.flatten() / detector.normalizer.value_range
    filling = [0.0] * 3 if detector.normalizer.square else mean.tolist()
    if detector.normalizer.channel_order == "BGR":
        filling.reverse()
    where = (
        "all around a smaller picture" if detector.normalizer.square else "right and bottom of it"
    )
    return {
        "entry": detector.card.name,
        "classes": list(detector.classes),
        "input": {
            "images": [images, 3, *size],
            "values": "float32 0..1, RGB, not normalised",
            "resize": {**resize, "method": detector.resize_method},
            "fill": {"where": where, "rgb": filling},
        },
        "output": {
            "boxes": "float32 (N, D, 4): x1, y1, x2, y2 in pixels of the input; cut them at a "
            "smaller picture's border, beyond which the graph sees more of the picture",
            "scores": "float32 (N, D): falling; -1 where nothing more was found",
            "labels": "int64 (N, D): indices of `classes`",
        },
        "device": "cpu",
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    sys.exit(main())
