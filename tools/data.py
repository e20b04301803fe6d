"""Datasets: download published ones, draw shapes, check your own before training."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from fcos.data import shapes
from fcos.data.annotations import load_annotations
from fcos.data.check import ASSUMED, LEFT_OUT, OUTCOMES, REFUSED, Finding, Report, check
from fcos.data.download import (
    Archive,
    DatasetSpec,
    check_disk_space,
    install_archive,
    missing_archives,
    remove_archive,
    required_bytes,
    verify_dataset,
)
from fcos.data.image_files import find_image_dir
from fcos.data.registry import DatasetSource, find_datasets
from zoo.download import fetch
from zoo.registry import CONFIGS
from zoo.sources import FileSource

STYLES = {REFUSED: "red", LEFT_OUT: "yellow", ASSUMED: "yellow"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the subcommand."""
    options = _parser().parse_args(arguments)
    return int(options.run(options))


def download(name: str, options: argparse.Namespace) -> int:
    """Download what is missing of a published dataset, and check all of it."""
    dataset = DatasetSpec.parse(name, yaml.safe_load(_files()[name].read_text()))
    root: Path = options.root
    root.mkdir(parents=True, exist_ok=True)
    console = Console(soft_wrap=True, highlight=False)
    with FileLock(root / ".data.lock"):
        missing = missing_archives(dataset, root)
        if missing:
            console.print(_announcement(dataset, missing, root))
            check_disk_space(root, required_bytes(missing, options.keep))
        for archive in missing:
            with _progress(f"unpacking {archive.name}") as progress:
                install_archive(archive, root, _fetch, progress)
            console.print(f"{archive.name}: unpacked")
            if not options.keep:
                remove_archive(archive, root)
        table = Table("split", "images", "objects", "classes")
        try:
            for split, numbers in verify_dataset(dataset, root).items():
                table.add_row(split, *(f"{number:,}" for number in numbers))
        except ValueError as error:
            raise ValueError(f"{error}; remove what is damaged and start again") from None
        if not options.keep:  # also those that an interrupted call left
            for archive in dataset.archives:
                remove_archive(archive, root)
    console.print(table)
    console.print(f"{name} is complete: train with data.root={root}")
    return 0


def draw(options: argparse.Namespace) -> int:
    """Write a dataset of drawn shapes."""
    if options.count < 1:
        raise ValueError(f"--count must be at least 1, not {options.count}")
    classes = tuple(options.classes.split(","))
    annotations = shapes.write(
        options.out, options.count, options.seed, options.size, classes, options.most
    )
    content = load_annotations(annotations)
    Console(soft_wrap=True, highlight=False).print(
        f"{annotations}: {len(content['images']):,} images, {len(content['annotations']):,} objects"
    )
    return 0


def check_all(options: argparse.Namespace) -> int:
    """Show what training would do about every irregularity of a dataset."""
    console = Console()
    reports: dict[str, Report] = {}
    for name, source in _sources(options.dataset, options.images):
        reports[name] = check(source.annotations, source.image_dir)
        _show(console, name, source.image_dir, reports[name])
    if options.json:
        content = {name: _plain(report) for name, report in reports.items()}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0 if all(report.ok for report in reports.values()) else 1


def _sources(dataset: Path, image_dir: Path | None) -> Iterable[tuple[str, DatasetSource]]:
    if dataset.is_dir() and image_dir is None:
        return find_datasets(dataset)
    source = DatasetSource(dataset, image_dir or find_image_dir(dataset))
    return [(dataset.stem, source)]


def _show(console: Console, name: str, image_dir: Path, report: Report) -> None:
    numbers = f"{report.images:,} images, {report.objects:,} objects, {len(report.classes)} classes"
    console.print(f"{name}, {image_dir}: {numbers}", markup=False, highlight=False, soft_wrap=True)
    table = Table("finding", "number", "training", "first ones")
    order = list(OUTCOMES)
    findings = sorted(report.findings, key=lambda finding: order.index(finding.kind))
    for kind, group in groupby(findings, key=lambda finding: finding.kind):
        names = [_short(finding) for finding in group]
        first = list(dict.fromkeys(names))
        examples = Text(", ".join(first[:3]) + (", …" if len(first) > 3 else ""))
        outcome = OUTCOMES[kind]
        table.add_row(kind, f"{len(names):,}", outcome, examples, style=STYLES.get(outcome))
    if findings:
        console.print(table)
    remedy = "fix it, or skip missing and unreadable images with data.skip_unreadable=true"
    console.print("training accepts it" if report.ok else f"[red]training refuses it:[/] {remedy}")


def _short(finding: Finding) -> str:
    name = finding.where.rsplit("/", 1)[-1]
    return name.encode("utf-8", "replace").decode()  # JSON may name files that no terminal can


def _plain(report: Report) -> Mapping[str, Any]:
    return {
        "ok": report.ok,
        "images": report.images,
        "objects": report.objects,
        "classes": report.classes,
        "counts": report.counts,
        "findings": [{**vars(f), "training": f.outcome} for f in report.findings],
    }


def _announcement(dataset: DatasetSpec, missing: Sequence[Archive], root: Path) -> str:
    size = sum(archive.size or 0 for archive in missing)
    unknown = sum(archive.size is None for archive in missing)
    more = f" and {unknown} of unpublished size" if unknown else ""
    names = ", ".join(archive.name for archive in missing)
    return f"{dataset.name}: {decimal(size)} to download into {root}{more} ({names})"


def _fetch(archive: Archive, folder: Path) -> Path:
    place = FileSource(archive.url, archive.size, archive.sha256 or "")
    return fetch(archive.name, [place], folder=folder)


@contextmanager
def _progress(text: str) -> Iterator[Callable[[int, int], None]]:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task(text, total=None, visible=False)
        yield lambda done, total: progress.update(task, completed=done, total=total, visible=True)


def _files() -> dict[str, Path]:
    return {path.stem: path for path in sorted((CONFIGS / "dataset").glob("*.yaml"))}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fcos-zoo data", description=__doc__)
    words = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for name in _files():
        word = words.add_parser(name, help=f"download {name}, unpack and check it")
        add = word.add_argument
        add("--root", type=Path, default=Path("data"), help="folder of the datasets (%(default)s)")
        add("--keep", action="store_true", help="keep the archives")
        word.set_defaults(run=partial(download, name))

    word = words.add_parser("shapes", help="draw a dataset of shapes")
    add = word.add_argument
    add("--count", type=int, required=True, help="number of images")
    add("--seed", type=int, default=0, help="of the random images (%(default)s)")
    add("--out", type=Path, required=True, help="folder to write")
    add("--size", type=int, default=160, help="longer side of the images (%(default)s)")
    add("--most", type=int, default=10, help="maximum number of shapes per image (%(default)s)")
    names = ",".join(shapes.CLASSES)
    add("--classes", default=names, help=f"out of {', '.join(shapes.OUTLINES)} (%(default)s)")
    word.set_defaults(run=draw)

    word = words.add_parser("check", help="show what training would refuse, leave out or correct")
    add = word.add_argument
    add("dataset", type=Path, help="a folder in COCO's or VOC's layout, or an annotation file")
    add(
        "images",
        type=Path,
        nargs="?",
        help="the annotation file's image folder, if it cannot be found",
    )
    add("--json", type=Path, help="write every finding to this file")
    word.set_defaults(run=check_all)
    return parser


if __name__ == "__main__":
    sys.exit(main())
