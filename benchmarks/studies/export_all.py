"""Every entry as an exported file: `python -m benchmarks.studies.export_all`.

Each entry gets random weights (see `benchmarks.random_weights`) and a small test-time size, and is
exported to ONNX and OpenVINO for images of any size and number. The files are compared with the
detector on photographs of four shapes, one at a time and in batches of two, and then removed.

A row is kept for every entry, and an entry that has one is not exported again: an interrupted run
continues. The table `reports/exported_entries.md` is written after every entry.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import zoo
from backbones.deformable import DeformConv2d
from benchmarks import exported, random_weights
from benchmarks.dataset import embedded, read_images
from benchmarks.workload import with_size
from fcos import Detector, export_formats
from fcos.boxes import Size
from fcos.export import program
from fcos.preprocess import resize_image

SIZE = (96, 150)  # not a multiple of the stride, so that images are padded
CANDIDATES = 300
ROWS = Path("outputs/export_all.jsonl")
REPORT = Path(__file__).resolve().parents[2] / "reports" / "exported_entries.md"
RUNTIMES = ("ONNX Runtime", "OpenVINO")


def main() -> None:
    """Export the entries that have no row yet, and print a row for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="entries (all)")
    parser.add_argument("--rows", type=Path, default=ROWS, help="keeps the rows (%(default)s)")
    parser.add_argument("--report", type=Path, default=REPORT, help="the table")
    options = parser.parse_args()
    options.rows.parent.mkdir(parents=True, exist_ok=True)
    options.rows.touch()
    for name in options.names or zoo.names():
        if name not in (row["entry"] for row in read(options.rows)):
            row = prove(name)
            print(*row.values(), sep="  ", flush=True)
            with options.rows.open("a") as file:
                file.write(json.dumps(row) + "\n")
            options.report.write_text(report(read(options.rows)))


def read(path: Path) -> list[dict[str, str]]:
    """Read the rows so far."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def prove(name: str) -> dict[str, str]:
    """Export an entry, and count the detections that are the same in every runtime."""
    [photo] = read_images(embedded(), 1)
    detector = randomized(name, photo, SIZE)
    facts = export_formats.describe(detector)
    row = {"entry": name, "torch": torch.__version__.split("+")[0]}
    with tempfile.TemporaryDirectory() as folder:
        onnx, xml = Path(folder) / "model.onnx", Path(folder) / "model.xml"
        writers = {
            onnx: lambda: export_formats.write_onnx(
                program(detector, batched_nms=True), onnx, facts
            ),
            xml: lambda: export_formats.write_openvino(onnx, xml, facts),
        }
        deformable = any(isinstance(module, DeformConv2d) for module in detector.modules())
        for runtime, (path, write) in zip(RUNTIMES, writers.items(), strict=True):
            if deformable and path is xml:
                row[runtime] = "not offered: deformable convolutions"
                continue
            try:
                write()
                same, total = exported.count_matches(detector, zoo.load(path))
                row[runtime] = f"{same} of {total}"
            except Exception as error:
                first_line = str(error).strip().splitlines()[0]
                row[runtime] = f"failed: {first_line[:150].replace('|', '/')}"
    return row


def randomized(name: str, photo: Tensor, size: Size, candidates: int = CANDIDATES) -> Detector:
    """Build an entry with the same random weights every time, and another test-time size.

    Its deformable convolutions have fixed offsets: random ones that depend on the image would
    amplify rounding errors.
    """
    torch.manual_seed(0)
    detector = zoo.build(name).eval()
    for module in detector.modules():
        if isinstance(module, DeformConv2d):
            nn.init.zeros_(module.offset.weight)
            assert module.offset.bias is not None
            nn.init.normal_(module.offset.bias)
    detector.resize = with_size(detector.resize, size)
    random_weights.randomize(detector, [resize_image(photo, size)], candidates)
    return detector


def report(rows: Sequence[dict[str, str]]) -> str:
    """Return the page."""
    columns = ["entry", *RUNTIMES, "torch"]
    lines = [
        "# Exported entries\n",
        f"`python -m benchmarks.studies.export_all` wrote this page, with {len(rows)} of "
        f"{len(zoo.names())} entries.\n",
        "Each entry with random weights was exported for images of any size and number, and the "
        f"file was compared with the detector on {exported.PHOTOGRAPHS} photographs of four "
        "shapes, one at a time and in batches of two, at a test-time size of "
        f"{SIZE[0]}/{SIZE[1]}. A cell states how many detections are the same: they have the same "
        f"class, an IoU of at least {exported.EXACT.iou}, and scores that differ by at most "
        f"{exported.EXACT.score}. With random weights the scores are nearly equal, so that a "
        "rounding error can change the last of the best hundred detections.\n",
        f"| {' | '.join(columns)} |",
        f"|{' --- |' * len(columns)}",
        *(
            f"| {' | '.join(row[column] for column in columns)} |"
            for row in sorted(rows, key=lambda row: row["entry"])
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
