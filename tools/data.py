"""Datasets: `fcos-zoo data`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from filelock import FileLock
from rich.filesize import decimal
from rich.table import Column
from rich.text import Text

from fcos.text import TextConsole, counted, plain_table
from tools.arguments import App, Group
from zoo.download import fetch, progress_bars
from zoo.registry import CONFIGS
from zoo.sources import FileSource

if TYPE_CHECKING:
    from fcos.data.check import Report
    from fcos.data.download import Archive, DatasetSpec

AnyDataset = Annotated[
    Path,
    typer.Argument(
        help="COCO's JSON, YOLO's data.yaml, VOC's or CVAT's XML, LabelMe's JSON, or a folder that "
        "holds one of them, as exports of Roboflow, CVAT and Label Studio do.",
        show_default=False,
    ),
]

TITLES = {
    "coco_rem": "COCO val2017 with the refined annotations of COCO-ReM",
    "coco_safe": "the images of COCO val2017 that may be redistributed",
}

app: typer.Typer = App(
    cls=Group, help="Download datasets, draw shapes, check or convert your own dataset."
)


def download(
    context: typer.Context,
    root: Annotated[Path, typer.Option(help="Folder of the datasets.")] = Path("data"),
    keep: Annotated[bool, typer.Option("--keep", help="Keep the archives.")] = False,
) -> None:
    """Download missing files of the dataset named like the command, and check all of them."""
    from fcos.data.download import (
        check_disk_space,
        missing_archives,
        read_spec,
        remove_archive,
        required_bytes,
        verify_dataset,
    )

    dataset = read_spec(CONFIGS / "dataset" / f"{context.info_name}.yaml")
    root.mkdir(parents=True, exist_ok=True)
    console = TextConsole(soft_wrap=True)
    with FileLock(root / ".data.lock"):
        missing = missing_archives(dataset, root)
        if missing:
            console.print(_announcement(dataset, missing, root))
            check_disk_space(root, required_bytes(missing, keep))
        for archive in missing:
            _install(archive, root)
            console.print(f"{archive.name}: unpacked")
            if not keep:
                remove_archive(archive, root)
        numbers_of = (
            Column(heading, justify="right") for heading in ("images", "objects", "classes")
        )
        table = plain_table("split", *numbers_of)
        try:
            for split, numbers in verify_dataset(dataset, root).items():
                table.add_row(split, *(f"{number:,}" for number in numbers))
        except ValueError as error:
            raise ValueError(f"{error}; remove what is damaged and start again") from None
        if not keep:  # also archives of interrupted calls
            for archive in dataset.archives:
                remove_archive(archive, root)
    console.print(table)
    console.print(f"{dataset.name} is complete: train with data.root={root}")


for _path in sorted((CONFIGS / "dataset").glob("*.yaml")):
    app.command(
        _path.stem,
        help=f"Download {TITLES.get(_path.stem, _path.stem)}, unpack it and check its files.",
    )(download)


@app.command()
def shapes(
    count: Annotated[int, typer.Option(min=1, help="Number of images.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    seed: Annotated[int, typer.Option(help="Seed of the random images.")] = 0,
    size: Annotated[int, typer.Option(min=32, help="Longer side of the images, in pixels.")] = 160,
    most: Annotated[
        int, typer.Option(min=1, max=254, help="Maximum number of shapes per image.")
    ] = 10,
    classes: Annotated[
        str,
        typer.Option(
            help="Comma-separated: circle, square, triangle, hexagon, star, cross, arrow."
        ),
    ] = "circle,square,triangle",
) -> None:
    """Draw a dataset of shapes, in COCO's format."""
    from fcos.data.annotations import load_annotations
    from fcos.data.shapes import write

    annotations = write(out, count, seed, size, tuple(classes.split(",")), most)
    content = load_annotations(annotations)
    TextConsole(soft_wrap=True).print(
        f"{annotations}: {counted(len(content['images']), 'image')}, "
        f"{counted(len(content['annotations']), 'object')}"
    )


@app.command("check")
def check_dataset(
    dataset: AnyDataset,
    images: Annotated[
        Path | None,
        typer.Argument(help="Folder of the images, if they are not beside the annotations."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write every finding to this file.")
    ] = None,
) -> int:
    """Check a dataset: show what training would refuse, leave out or correct.

    The exit code is 1 if training would refuse it.
    """
    from fcos.data.check import check
    from fcos.data.formats import find_splits

    console = TextConsole()
    if json_file:
        json_file.parent.mkdir(parents=True, exist_ok=True)
    reports: dict[str, Report] = {}
    for name, read in find_splits(dataset).items():
        source = read()
        image_dir = images or source.image_dir
        reports[name] = check(source.annotations, image_dir)
        _show(console, name, image_dir, reports[name])
    if json_file:
        content = {name: _plain(report) for name, report in reports.items()}
        json_file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0 if all(report.ok for report in reports.values()) else 1


@app.command("convert")
def convert_dataset(
    dataset: AnyDataset,
    out: Annotated[Path, typer.Argument(help="Folder to write.", show_default=False)],
    format: Annotated[Literal["coco", "yolo"], typer.Option(help="Format to write.")] = "coco",
    images: Annotated[
        Literal["copy", "link"], typer.Option(help="Copy the images, or link to them.")
    ] = "copy",
) -> None:
    """Write a dataset of any known format as COCO's JSON or YOLO's text files, with its images.

    Objects become boxes; those that training would leave out are left out.
    """
    from fcos.data.convert import convert
    from fcos.data.formats import find_splits
    from fcos.text import printable

    console = TextConsole(soft_wrap=True)
    for name, split in convert(find_splits(dataset), out, format, images).items():
        counts = "".join(f", {number:,} x {kind}" for kind, number in split.counts.items())
        numbers = f"{counted(split.images, 'image')}, {counted(split.objects, 'object')}{counts}"
        console.print(f"{printable(name)}: {numbers}")
    console.print(f"train on it with data={printable(out)}")


def _show(console: TextConsole, name: str, image_dir: Path, report: Report) -> None:
    from fcos.data.check import ASSUMED, IMAGE_FAULTS, LEFT_OUT, OUTCOMES, REFUSED
    from fcos.text import printable

    styles = {REFUSED: "red", LEFT_OUT: "yellow", ASSUMED: "yellow"}
    classes = "1 class" if len(report.classes) == 1 else f"{len(report.classes)} classes"
    numbers = f"{counted(report.images, 'image')}, {counted(report.objects, 'object')}, {classes}"
    heading = f"{printable(name)}, {printable(image_dir)}: {numbers}"
    console.print(heading, soft_wrap=True)
    last = Column("first ones", overflow="fold")
    table = plain_table("finding", Column("number", justify="right"), "training", last)
    order = list(OUTCOMES)
    findings = sorted(report.findings, key=lambda finding: order.index(finding.kind))
    for kind, group in groupby(findings, key=lambda finding: finding.kind):
        names = [printable(finding.where.rsplit("/", 1)[-1]) for finding in group]
        first = list(dict.fromkeys(names))
        examples = Text(", ".join(first[:3]) + (", …" if len(first) > 3 else ""))
        outcome = OUTCOMES[kind]
        table.add_row(kind, f"{len(names):,}", outcome, examples, style=styles.get(outcome))
    if findings:
        console.print(table)
    refused = {finding.kind for finding in report.findings if finding.refused}
    remedy = "fix what is marked as refused"
    if refused <= IMAGE_FAULTS:
        remedy += ", or skip such images with data.skip_unreadable=true"
    verdict = f"training refuses it: {remedy}" if refused else "training accepts it"
    console.print(verdict, style="red" if refused else None)


def _plain(report: Report) -> Mapping[str, Any]:
    findings = [{**vars(finding), "training": finding.outcome} for finding in report.findings]
    return {"ok": report.ok, "counts": report.counts, **vars(report), "findings": findings}


def _announcement(dataset: DatasetSpec, missing: Sequence[Archive], root: Path) -> str:
    size = sum(archive.size or 0 for archive in missing)
    unknown = sum(archive.size is None for archive in missing)
    more = f" and {unknown} of unpublished size" if unknown else ""
    names = ", ".join(archive.name for archive in missing)
    return f"{dataset.name}: {decimal(size)} to download into {root}{more} ({names})"


def _install(archive: Archive, root: Path) -> None:
    """Download an archive, unless it exists, and unpack it, with progress bars."""
    from fcos.data.download import check_md5, unpack

    with progress_bars() as bars:
        task = bars.add_task(f"unpacking {archive.name}", total=None, visible=False)

        def show(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total, visible=True)

        source = FileSource(archive.url, archive.size, archive.sha256 or "")
        path = fetch(archive.name, [source], folder=root / "archives", progress=bars)
        check_md5(path, archive)
        unpack(path, archive.extract, root, show)


if __name__ == "__main__":
    from tools.cli import main

    sys.exit(main(["data", *sys.argv[1:]]))
