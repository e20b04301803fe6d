"""Find objects in pictures: boxes drawn, and COCO results as JSON."""

from __future__ import annotations

import argparse
import glob
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

import zoo
from fcos import TTA_MULTI_SCALE, Detections, Detector
from fcos.coco_eval import Result, to_coco_results
from tools.arguments import default_device, exact_float32

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Detect in images, folders and globs; write pictures and `results.json` into a folder.

    An image that cannot be read does not stop the others, and is told at the end.
    """
    parser = argparse.ArgumentParser(prog="fcos-zoo predict", description=__doc__)
    parser.add_argument("name", help="an entry, see `fcos-zoo list`")
    parser.add_argument("images", nargs="+", help="images, folders or globs")
    parser.add_argument("--out", type=Path, default=Path("outputs/predict"), help="folder to write")
    parser.add_argument("--score-threshold", type=float, default=0.3,
                        help="of the boxes drawn and written (%(default)s)")  # fmt: skip
    parser.add_argument("--weights", help="a path or address instead of the published file")
    parser.add_argument("--multi-scale", action="store_true",
                        help="test-time augmentation by 17 scaled and flipped copies")  # fmt: skip
    parser.add_argument("--device", help="cpu or cuda; default: cuda where there is one")
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp16"], default="fp32")
    options = parser.parse_args(arguments)
    paths = find_images(options.images)
    exact_float32()
    device = options.device or default_device()
    detector = zoo.get(options.name, options.weights, device, options.precision).fuse()
    options.out.mkdir(parents=True, exist_ok=True)
    console = Console(markup=False, highlight=False, soft_wrap=True)
    threshold, tta = options.score_threshold, TTA_MULTI_SCALE if options.multi_scale else ()
    results: list[Result] = []
    failures = []
    ids = category_ids(detector)
    quiet = not console.is_terminal
    pairs = list(zip(paths, drawings(paths, options.out), strict=True))
    try:
        for path, target in track(pairs, options.name, console=console, disable=quiet):
            try:
                found = detector.detect(path, score_threshold=threshold, tta=tta)[0]
            except (ValueError, OSError) as error:
                failures.append(str(error))
                continue
            found.draw().save(target, quality=92)
            results += coco_results(path.name, found, ids, detector.decoder.plus_one)
            console.print(f"{path}: {describe(found)}")
    finally:
        (options.out / "results.json").write_text(json.dumps(results, indent=1))
    console.print(f"{len(paths) - len(failures)} pictures and results.json in {options.out}")
    for failure in failures:
        console.print(failure, style="red")
    return 1 if failures else 0


def find_images(patterns: Sequence[str]) -> list[Path]:
    """The image files that paths, folders and globs name, each once, in order."""
    found: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            matches = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        else:
            matches = [path] if path.exists() else [Path(p) for p in sorted(glob.glob(pattern))]
        if not matches:
            raise FileNotFoundError(f"no image at {pattern}")
        found.update(dict.fromkeys(matches))
    return list(found)


def category_ids(detector: Detector) -> Sequence[int]:
    """The dataset's own ids of the entry's classes; of others, counted from 1 as COCO does."""
    config = detector.card.config
    own = list(detector.classes) == list(config["classes"])
    counted = range(1, len(detector.classes) + 1)
    return config.get("category_ids", counted) if own else counted


def drawings(paths: Sequence[Path], out: Path) -> list[Path]:
    """Where each image is drawn: a JPEG of its name, numbered where an image has that place."""
    taken = {path.resolve() for path in paths}
    targets = []
    for path in paths:
        target, number = out / f"{path.stem}.jpg", 1
        while target.resolve() in taken:
            number += 1
            target = out / f"{path.stem}_{number}.jpg"
        taken.add(target.resolve())
        targets.append(target)
    return targets


def coco_results(
    file_name: str, found: Detections, category_ids: Sequence[int], plus_one: bool
) -> list[Result]:
    """COCO's results format with the classes' names; the image's id is its file's number, or its
    name where it has none. See `fcos.coco_eval.to_coco_results`."""
    stem = Path(file_name).stem
    image_id = int(stem) if stem.isdecimal() else file_name
    tensors = found.boxes, found.scores, found.labels
    rows = to_coco_results(image_id, *tensors, category_ids, plus_one)
    return [{**row, "category": name} for row, name in zip(rows, found.names, strict=True)]


def describe(found: Detections) -> str:
    """How many of what: "3 person, 1 dog"."""
    counts: dict[str, int] = {}
    for name in found.names:
        counts[name] = counts.get(name, 0) + 1
    return ", ".join(f"{n} {name}" for name, n in counts.items()) or "nothing found"


if __name__ == "__main__":
    sys.exit(main())
