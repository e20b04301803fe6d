"""COCO AP of a model on a dataset: `fcos-zoo evaluate`."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Column, Table

from fcos.text import TextConsole, plain_table
from tools.arguments import (
    EXPORTED,
    Device,
    Model,
    MultiScale,
    Precision,
    Weights,
    Winograd,
    exact_float32,
    load_model,
    name_for_files,
)

if TYPE_CHECKING:
    from benchmarks.cases import Dataset
    from fcos.coco_eval import Result

DRAWN = Path("outputs/data")  # the folder of drawn datasets


def evaluate(
    name: Model,
    dataset: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            metavar="PATH [IMAGES]",
            help="Dataset in any format that `fcos-zoo data check` takes, such as COCO's JSON, and "
            "the folder of its images, if they are not beside it.",
            show_default="the 31 embedded images of val2017, or drawn shapes",
        ),
    ] = None,
    weights: Weights = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first images.")] = None,
    max_detections: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Evaluate only the best detections of each image.",
            show_default="the model's limit, and COCO's 100",
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read images.")] = 2,
    multi_scale: MultiScale = False,
    device: Device = None,
    precision: Precision = "fp32",
    winograd: Winograd = False,
    resize: Annotated[
        Literal["pil", "opencv", "tensor", "antialias"] | None,
        typer.Option(
            help="How to resize images.",
            show_default="as published",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write.", show_default="outputs/evaluate/NAME"),
    ] = None,
) -> None:
    """Compute COCO's twelve metrics and the AP of each class, on a dataset.

    Several processes share the images: `torchrun --nproc-per-node 8 -m tools.evaluate NAME`.
    """
    from benchmarks import accuracy
    from benchmarks.dataset import default_dataset, image_ids
    from fcos import TTA_MULTI_SCALE
    from fcos.coco_eval import COCO_LIMIT
    from fcos.train import distributed

    exact_float32()
    title = f"{name} multi-scale" if multi_scale else name
    stem = name_for_files(name) + title.removeprefix(name)
    folder = out or Path("outputs/evaluate") / stem.replace(" ", "_")
    with distributed.process_group(device):  # selects the GPU of this process
        detector = load_model(name, weights, device, precision, resize, winograd, multi_scale)
        own = detector.decoder.max_detections
        if Path(name).suffix in EXPORTED and max_detections not in (None, own):
            raise ValueError(
                f"{name} was exported with its limit of {own} detections of an image: leave out "
                f"--max-detections, or export it again with --max-detections {max_detections}"
            )
        folder.mkdir(parents=True, exist_ok=True)  # before any work
        with distributed.leader_first():
            data = (
                read_dataset(dataset, folder) if dataset else default_dataset(detector.card, DRAWN)
            )
        ids = image_ids(data, limit)
        tta = TTA_MULTI_SCALE if multi_scale else ()
        if max_detections:
            detector.decoder.max_detections = max_detections
        results = accuracy.detect(detector, data, ids, batch, tta, workers)
        if distributed.rank() == 0:
            for line in remarks(detector.classes, data, ids, max_detections or COCO_LIMIT):
                TextConsole(stderr=True, soft_wrap=True).print(line)
            write(results, data, ids, folder, title, max_detections or COCO_LIMIT, detector.runtime)


def read_dataset(paths: Sequence[Path], folder: Path) -> Dataset:
    """Read the dataset of a path; other formats than COCO's are converted into the folder."""
    from benchmarks.cases import Dataset
    from fcos.data.registry import resolve_dataset
    from fcos.train import distributed

    path, *image_dir = paths
    if len(image_dir) > 1:
        raise ValueError("--dataset takes a dataset and at most one folder of images")
    images = image_dir[0] if image_dir else None
    (source,) = resolve_dataset(str(path.absolute()), "", images, training=False)
    if isinstance(source.annotations, Path):
        return Dataset.of(source.annotations, source.image_dir)
    annotations = folder / "annotations.json"
    if distributed.rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        annotations.write_text(json.dumps(source.annotations))
    return replace(Dataset.of(annotations, source.image_dir), name=path.absolute().stem)


def remarks(classes: Sequence[str], dataset: Dataset, ids: Sequence[int], limit: int) -> list[str]:
    """Return warnings: irregular annotations, unmeasured classes, images with too many objects."""
    from fcos.data.annotations import category_names, load_annotations, valid_objects
    from fcos.evaluate import crowded, unmatched

    content = load_annotations(dataset.annotations, labelled=False)
    kinds = Counter(kind for kind, _ in content["notes"])
    things = valid_objects(content, lambda kind, where: kinds.update([kind]))
    objects = Counter(thing["image_id"] for thing in things)
    if flat := sum(min(thing["bbox"][2:]) <= 0 for thing in things):
        kinds["box without area, which no detection can match"] = flat
    lines = []
    if kinds:
        found = ", ".join(f"{number} x {kind}" for kind, number in kinds.most_common())
        lines.append(f"{dataset.annotations}: {found}; `fcos-zoo data check` names the files")
    if kinds["id as text"]:
        lines.append(
            "detections.json has integers for ids that are text: those that they spell, or else "
            "their positions in the file"
        )
    measured = {thing["image_id"] for thing in things if not thing.get("iscrowd")}
    if not measured.intersection(ids):
        lines.append(f"{dataset.annotations}: no objects in these images, so there is no AP")
    counts = [objects[image_id] for image_id in ids]
    of_category = Counter(thing["category_id"] for thing in things)
    names = category_names(content)
    return [
        *lines,
        *unmatched(classes, list(names.values()), [of_category[number] for number in names]),
        *crowded(counts, limit, "--max-detections"),
    ]


def write(
    results: Sequence[Result],
    dataset: Dataset,
    ids: Sequence[int],
    folder: Path,
    title: str,
    max_detections: int,
    runtime: str,
) -> None:
    """Write the detections, then compute and print the metrics."""
    from benchmarks import accuracy

    (folder / "detections.json").write_text(json.dumps(results))
    figures = accuracy.figures(results, dataset, ids, max_detections=max_detections)
    figures["runtime"] = runtime
    (folder / "figures.json").write_text(json.dumps(figures, indent=1))
    console = TextConsole(width=None if sys.stdout.isatty() else 120)
    print_figures(figures, title, console)
    console.print(f"detections.json and figures.json in {folder}", soft_wrap=True)


def print_figures(figures: dict[str, Any], title: str, console: TextConsole) -> None:
    """Print the twelve metrics in per cent, and the classes from best to worst.

    For an exported file, its runtime is named, too.
    """
    from fcos.coco_eval import FIGURES, percent
    from fcos.text import counted, printable

    heading = f"{title} on {figures['split']}, {counted(figures['images'], 'image')}"
    columns = {name: percent(figures[name]) for name in FIGURES}
    if not figures["runtime"].startswith("PyTorch"):
        columns = {"runtime": figures["runtime"], **columns}
    left_out: list[str] = []
    while Console(width=1000).measure(table := one_row(columns)).maximum > console.width:
        left_out.insert(0, columns.popitem()[0])
    console.print(heading)
    console.print(table)
    if left_out:
        console.print(f"Left out for the width: {', '.join(left_out)}; see figures.json.")
    classes = {name: ap for name, ap in figures["per_class"].items() if ap is not None}
    ranked = sorted(classes.items(), key=lambda pair: -pair[1])
    texts = [f"{printable(name)} {percent(ap)}" for name, ap in ranked]
    if texts:
        console.print(f"AP by class: {', '.join(texts)}")


def one_row(cells: dict[str, str]) -> Table:
    """Return a table of one row."""
    table = plain_table(*(Column(heading, justify="right") for heading in cells))
    table.add_row(*cells.values())
    return table


if __name__ == "__main__":
    from tools.cli import main

    sys.exit(main(["evaluate", *sys.argv[1:]]))
