"""COCO AP of a model on a COCO-format dataset: the twelve metrics and the AP of each class."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.table import Table
from rich.text import Text

import zoo
from benchmarks import accuracy
from benchmarks.cases import Dataset
from benchmarks.dataset import default_dataset, image_ids
from fcos import TTA_MULTI_SCALE
from fcos.coco_eval import FIGURES, Result
from fcos.data.annotations import category_names, load_annotations, valid_objects
from fcos.data.image_files import find_image_dir
from fcos.evaluate import unmatched
from fcos.preprocess import ResizeMethod
from fcos.text import printable
from fcos.train import distributed
from fcos.train.examine import COCO_LIMIT, crowded
from tools.arguments import exact_float32, name_for_files, positive

DRAWN = Path("outputs/data")  # where shapes are drawn to


def main(arguments: Sequence[str] | None = None) -> int:
    """Detect on every image, write the detections, print the metrics; under torchrun together."""
    options = _parser().parse_args(arguments)
    exact_float32()
    dataset = _dataset(options.dataset)
    title = f"{options.name} multi-scale" if options.multi_scale else options.name
    stem = name_for_files(options.name) + title.removeprefix(options.name)
    folder = options.out or Path("outputs/evaluate") / stem.replace(" ", "_")
    with distributed.process_group(options.device) as device:
        detector = zoo.get(
            options.name, options.weights, device, options.precision, resize=options.resize
        ).fuse()
        dataset = dataset or default_dataset(detector.card, DRAWN)
        ids = image_ids(dataset, options.limit)
        tta = TTA_MULTI_SCALE if options.multi_scale else ()
        if options.max_detections:
            detector.decoder.max_detections = options.max_detections
        results = accuracy.detect(detector, dataset, ids, options.batch, tta, options.workers)
        if distributed.rank() == 0:
            for line in remarks(detector.classes, dataset, ids, options.max_detections):
                Console(stderr=True, soft_wrap=True, markup=False).print(printable(line))
            write(results, dataset, ids, folder, title, options.max_detections or COCO_LIMIT)
    return 0


def _dataset(paths: Sequence[Path] | None) -> Dataset | None:
    if not paths:
        return None
    annotations, *image_dir = paths
    if len(image_dir) > 1:
        raise ValueError("--dataset takes an annotation file and at most one folder of images")
    return Dataset.of(annotations, image_dir[0] if image_dir else find_image_dir(annotations))


def remarks(
    classes: Sequence[str], dataset: Dataset, ids: Sequence[int], limit: int | None
) -> list[str]:
    """What the figures do not measure as one may expect."""
    content = load_annotations(dataset.annotations, labelled=False)
    objects = Counter(thing["image_id"] for thing in valid_objects(content))
    counts = [objects[image_id] for image_id in ids]
    names = list(category_names(content).values())
    return [*unmatched(classes, names), *(crowded(counts) if limit is None else ())]


def write(
    results: Sequence[Result],
    dataset: Dataset,
    ids: Sequence[int],
    folder: Path,
    title: str,
    max_detections: int = COCO_LIMIT,
) -> None:
    """Write the detections, then compute and print the metrics."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "detections.json").write_text(json.dumps(results))
    figures = accuracy.figures(results, dataset, ids, max_detections=max_detections)
    (folder / "figures.json").write_text(json.dumps(figures, indent=1))
    console = Console(width=None if sys.stdout.isatty() else 120)
    print_figures(figures, title, console)
    said = f"detections.json and figures.json in {printable(folder)}"
    console.print(said, highlight=False, soft_wrap=True, markup=False)


def print_figures(figures: dict[str, Any], title: str, console: Console) -> None:
    """Print the twelve metrics in per cent, and the classes from best to worst."""
    heading = f"{title} on {figures['split']}, {figures['images']} images"
    table = Table(title=Text(printable(heading)))
    for figure in FIGURES:
        table.add_column(figure, justify="right")
    table.add_row(*(_percent(figures[figure]) for figure in FIGURES))
    console.print(table)
    classes = {name: ap for name, ap in figures["per_class"].items() if ap is not None}
    ranked = sorted(classes.items(), key=lambda pair: -pair[1])
    texts = [f"{printable(name)} {_percent(ap)}" for name, ap in ranked]
    console.print(f"AP by class: {', '.join(texts)}", highlight=False, markup=False)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fcos-zoo evaluate", description=__doc__)
    add = parser.add_argument
    add("name", help="a model, see `fcos-zoo list`, or a file that training wrote")
    add("--dataset", type=Path, nargs="+", metavar=("ANNOTATIONS", "IMAGES"),
        help="annotations in COCO's format and, if it cannot be found, the folder of the images; "
        "default: the 31 embedded images of val2017, or shapes")  # fmt: skip
    add("--weights", help="a path or URL in place of the published file")
    add("--limit", type=positive, help="use only the first images")
    add("--max-detections", type=positive,
        help="of an image that count, instead of the model's limit and COCO's 100")  # fmt: skip
    add("--batch", type=positive, default=1, help="images per forward pass (%(default)s)")
    add("--workers", type=int, default=2, help="processes that read images (%(default)s)")
    add("--multi-scale", action="store_true",
        help="test-time augmentation by 17 scaled and flipped copies")  # fmt: skip
    add("--device", help="cpu or cuda; default: cuda where there is one")
    add("--precision", choices=["fp32", "bf16", "fp16"], default="fp32")
    add("--resize", choices=get_args(ResizeMethod),
        help="antialias: on the device; default: as published")  # fmt: skip
    add("--out", type=Path, help="folder to write; default: outputs/evaluate/NAME")
    return parser


if __name__ == "__main__":
    sys.exit(main())
