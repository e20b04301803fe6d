"""One file for other runtimes: `fcos-zoo export`."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tools.arguments import Model, Weights, name_for_files, words

FORMATS = ("pt2", "onnx")
ONNX = ("onnx", "onnxscript", "onnxruntime")


def export(
    name: Model,
    formats: Annotated[
        str, typer.Option("--format", metavar="WORDS", help="pt2, onnx or pt2,onnx.")
    ] = "pt2",
    weights: Weights = None,
    size: Annotated[
        tuple[int, int] | None,
        typer.Option(
            min=1,
            metavar="HEIGHT WIDTH",
            help="Size of the input.",
            show_default="the largest that the entry resizes landscape images to",
        ),
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("outputs/export"),
) -> None:
    """Export an entry as one file for other runtimes, from images to boxes: .pt2 or ONNX.

    The file is run on photographs, and kept only if its detections match the detector's.
    """
    chosen = words(formats, FORMATS, "--format") or ()
    if "onnx" in chosen:
        need(ONNX)

    import zoo
    from benchmarks import exported
    from fcos import export

    detector = zoo.get(name, weights)
    size = size or exported.largest(detector)
    out.mkdir(parents=True, exist_ok=True)
    console = Console(markup=False, highlight=False, soft_wrap=True)
    with console.status(f"{name}: tracing"):
        graph = export.program(detector, size, images)
    for form in chosen:
        path = out / f"{name_for_files(name)}.{form}"
        draft = path.with_suffix(f".draft.{form}")
        try:
            with console.status(f"{path}: writing"):
                run = exported.WRITERS[form](graph, draft)
            with console.status(f"{path}: comparing with the detector"):
                outcome = exported.compare(detector, run, size, images)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        facts = exported.description(detector, size, images) | {"proof": outcome}
        path.with_suffix(f".{form}.json").write_text(json.dumps(facts, indent=1))
        console.print(f"{path}, {path.stat().st_size / 1e6:.0f} MB: {outcome}")


def need(packages: Sequence[str]) -> None:
    """Check that the packages of an extra are installed, before a minute is spent on tracing.

    Raises:
        ImportError: one is missing.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ImportError(f"{package} is not installed: pip install 'fcos-zoo[export]'")


if __name__ == "__main__":
    from tools.cli import main

    sys.exit(main(["export", *sys.argv[1:]]))
