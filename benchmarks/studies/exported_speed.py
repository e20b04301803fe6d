"""Exported files compared with their detectors: `python -m benchmarks.studies.exported_speed`.

For an entry of every backbone, the detector in PyTorch and its exported files detect in the same
image of 320x416, batch 1, in one process and in alternating rounds. A ratio is the median over the
rounds of the detector's time divided by the file's in the same round. The weights are random (see
`benchmarks.random_weights`), the files are for images of any size, and int8 is calibrated on eight
photographs. Biases are corrected layer by layer in networks of up to 100 convolutions. Others use
the fast correction, as HRNet's layer-by-layer correction took more than eight minutes.

The last column shows how many of the detector's detections a file finds on other photographs. The
scores of random weights are nearly equal, so that small errors exchange many of the best hundred.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import zoo
from benchmarks import random_weights
from benchmarks.dataset import embedded, read_images
from benchmarks.exported import EXACT, INT8, Tolerance
from benchmarks.studies import side_by_side as study
from benchmarks.studies.export_all import randomized
from fcos import Detector, export_formats, quantize
from fcos.detections import matches
from fcos.export import program
from fcos.preprocess import as_float, resize_image

ENTRIES = (
    "FCOS_R_50_1x",
    "FCOS_X_101_32x8d_FPN_2x",
    "FCOS_HRNet_W18_5l_2x",
    "FCOS_V_39_FPN_1x",
    "FCOS_RT_MS_DLA_34_4x_shtw",
    "FCOS_bn_bs16_MNV2_FPN_1x",
)
SIZE = (320, 416)
CALIBRATION = 8
FILES = {  # by contender: the file, and the criteria of matching detections
    "ONNX Runtime": ("fp32.onnx", EXACT),
    "OpenVINO": ("fp32.xml", EXACT),
    "OpenVINO int8": ("int8.xml", INT8),
}


def main() -> None:
    """Print a row for every entry and contender."""
    parser = study.arguments(__doc__, rounds=9)
    add = parser.add_argument
    add("names", nargs="*", default=ENTRIES, help="entries (%(default)s)")
    add("--images", type=int, default=8, help="to compare detections on (%(default)s)")
    add("--folder", type=Path, default=Path("outputs/exported_speed"), help="keeps the files")
    add("--only-write", action="store_true", help="write the files, and measure nothing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    photos = read_images(embedded(), CALIBRATION + options.images)
    images = [as_float(resize_image(photo, SIZE)) for photo in photos]
    rows = []
    for name in options.names:
        detector = randomized(name, photos[0], SIZE, random_weights.CANDIDATES)
        write(detector, options.folder / name, images[:CALIBRATION])
        if not options.only_write:
            files = {key: options.folder / name / file for key, (file, _) in FILES.items()}
            rows += compare(detector, files, images[CALIBRATION:], options.rounds)
    if rows:
        title = "From an image of 320x416 to its boxes, batch 1"
        print(study.markdown(rows, title, study.conditions("cpu", options.rounds)))


def write(detector: Detector, folder: Path, images: Sequence[Tensor]) -> None:
    """Export a detector as `fcos-zoo export` does, unless the files exist."""
    if (folder / "int8.xml").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    facts = export_formats.describe(detector)
    graph = program(detector, batched_nms=True)
    export_formats.write_onnx(graph, folder / "fp32.onnx", facts)
    export_formats.write_openvino(folder / "fp32.onnx", folder / "fp32.xml", facts)
    inputs = [image[None].numpy() for image in images]
    int8 = export_formats.describe(detector, precision="int8")
    convolutions = sum(isinstance(module, nn.Conv2d) for module in detector.modules())
    quantize.quantize_openvino(
        *(folder / "fp32.xml", folder / "int8.xml", inputs, int8),
        fast_bias_correction=convolutions > 100,
    )


@torch.inference_mode()
def compare(
    detector: Detector, paths: Mapping[str, Path], images: Sequence[Tensor], rounds: int
) -> list[dict[str, str]]:
    """Return a row for the detector and for each of its files."""
    detector.fuse().to(memory_format=torch.channels_last)
    expected = [detector([image])[0] for image in images]
    contenders = {"PyTorch": partial(detector, [images[0]])}
    found = {}
    for name, path in paths.items():
        file = zoo.load(path)
        arrays = [image[None].numpy() for image in images]
        results = [file.detect_arrays(array)[0] for array in arrays]
        found[name] = share(expected, results, FILES[name][1])
        contenders[name] = partial(file.detect_arrays, arrays[0])
    times = study.side_by_side(contenders, rounds)
    milliseconds = 1e3 * study.medians(times)["seconds"]
    return [
        {
            "entry": paths["OpenVINO"].parent.name,
            "runtime": name,
            "ms": f"{milliseconds[name]:.1f}",
            "times as fast": study.speedup(times, name, "PyTorch"),
            "found again": found.get(name, "-"),
        }
        for name in contenders
    ]


def share(
    expected: Sequence[Mapping[str, Tensor]],
    results: Sequence[Mapping[str, Tensor]],
    tolerance: Tolerance,
) -> str:
    """Return the percentage of the expected detections that are among the results."""
    same = sum(
        matches(ours, theirs, tolerance.iou, tolerance.score)
        for ours, theirs in zip(expected, results, strict=True)
    )
    return f"{100 * same / np.sum([len(ours['scores']) for ours in expected]):.1f}%"


if __name__ == "__main__":
    main()
