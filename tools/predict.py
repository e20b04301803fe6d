"""Detect objects in images and videos: `fcos-zoo predict`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tools.arguments import (
    Device,
    Model,
    MultiScale,
    Precision,
    Weights,
    default_device,
    exact_float32,
    load_model,
    words,
)

FORMATS = ("csv", "yolo")


def predict(
    name: Model,
    images: Annotated[
        list[str],
        typer.Argument(
            help="Images, videos, folders, globs, URLs, - for an image from standard input, "
            "rtsp:// streams, or the number of a camera."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("outputs/predict"),
    recursive: Annotated[
        bool, typer.Option("--recursive", help="Also read the folders inside folders.")
    ] = False,
    score_threshold: Annotated[
        float, typer.Option(help="The lowest score of a box that is drawn and written.")
    ] = 0.3,
    classes: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Keep only these classes, such as person,car."),
    ] = None,
    max_detections: Annotated[
        int | None, typer.Option(min=1, help="Keep only the best of each image.")
    ] = None,
    slice_size: Annotated[
        int | None,
        typer.Option(
            "--slice",
            min=1,
            metavar="PIXELS",
            help="Also detect in overlapping tiles of this size, for small objects.",
        ),
    ] = None,
    multi_scale: MultiScale = False,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Images per forward pass; best for images of one size.")
    ] = 1,
    save: Annotated[
        str | None,
        typer.Option(
            metavar="FORMATS",
            help=f"Also write these formats, comma-separated: {', '.join(FORMATS)}.",
        ),
    ] = None,
    font: Annotated[
        str | None, typer.Option(help="A font file, for class names in other scripts.")
    ] = None,
    weights: Weights = None,
    device: Device = None,
    precision: Precision = "fp32",
    winograd: Annotated[
        bool,
        typer.Option(
            "--winograd",
            help="Compute 3x3 convolutions by Winograd's algorithm: faster in fp32 on a CPU, for "
            "more memory.",
        ),
    ] = False,
) -> int:
    """Detect objects, and write the drawn boxes and `results.json` into a folder.

    A source that cannot be read does not stop the others; it is reported at the end.
    """
    formats = words(save, FORMATS, "--save") or ()
    _check_font(font)
    from fcos import TTA_MULTI_SCALE
    from tools.detect_sources import check_classes, detect_sources
    from tools.sources import find_sources

    kept = None if classes is None else [c.strip() for c in classes.split(",") if c.strip()]
    sources = find_sources(images, recursive, out)
    exact_float32()
    device = device or default_device()
    detector = load_model(name, weights, device, precision, winograd=winograd)
    check_classes(kept, detector)
    return detect_sources(
        detector,
        sources,
        out,
        score_threshold=score_threshold,
        classes=kept,
        max_detections=max_detections,
        batch_size=batch_size,
        slice_size=slice_size,
        tta=TTA_MULTI_SCALE if multi_scale else (),
        formats=formats,
        font_file=font,
    )


def _check_font(path: str | None) -> None:
    from PIL import ImageFont

    if path is None:
        return
    try:
        ImageFont.truetype(path)
    except OSError as error:
        raise typer.BadParameter(f"{path} is not a font file ({error})") from None


if __name__ == "__main__":
    from tools.cli import main

    sys.exit(main(["predict", *sys.argv[1:]]))
