"""Detect objects in images and videos: `fcos-zoo predict`."""

from __future__ import annotations

import difflib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import track

from fcos.text import TextConsole, counted, printable
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
    words,
)

if TYPE_CHECKING:
    from torch import Tensor

    from fcos import Detections, Detector
    from tools.outputs import Outputs
    from tools.sources import Failure, Frame, Source

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
    recursive: Annotated[bool, typer.Option("--recursive", help="Also read subfolders.")] = False,
    score_threshold: Annotated[
        float,
        typer.Option(min=0, max=1, help="The lowest score of a box that is drawn and written."),
    ] = 0.3,
    classes: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Keep only these classes, such as person,car."),
    ] = None,
    max_detections: Annotated[
        int | None, typer.Option(min=1, help="Keep only the best detections of an image.")
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
    winograd: Winograd = False,
) -> int:
    """Detect objects, and write the drawn boxes and `results.json` into a folder.

    A file that cannot be read does not stop the others; it is reported at the end.
    """
    formats = words(save, FORMATS, "--save") or ()
    _check_font(font)
    from fcos import TTA_MULTI_SCALE
    from fcos.slicing import detect_sliced
    from tools.outputs import Outputs
    from tools.sources import find_sources

    kept = None if classes is None else [c.strip() for c in classes.split(",") if c.strip()]
    if kept == []:
        raise typer.BadParameter(f"{classes!r} names no class", param_hint="--classes")
    sources = find_sources(images, recursive, out)
    exact_float32()
    detector = load_model(
        name, weights, device, precision, winograd=winograd, multi_scale=multi_scale
    )
    check_classes(kept, detector)
    limit = detector.decoder.max_detections
    if max_detections is not None and limit is not None and max_detections > limit:
        if Path(name).suffix in EXPORTED:
            raise ValueError(
                f"{name} was exported with its limit of {limit} detections of an image: export it "
                f"again with --max-detections {max_detections}"
            )
        detector.decoder.max_detections = max_detections
    tta = TTA_MULTI_SCALE if multi_scale else ()

    def detect(images: list[Tensor]) -> list[Detections]:
        count = len(images)
        if slice_size is None:
            found = detector.detect(images, score_threshold, count, tta)
        else:
            found = [
                detect_sliced(detector, image, slice_size, score_threshold, count, tta)
                for image in images
            ]
        return [detections.filter(kept)[:max_detections] for detections in found]

    outputs = Outputs(out, sources, detector, formats, font)
    return detect_all(sources, batch_size, detect, outputs, detector.runtime)


def detect_all(
    sources: Sequence[Source],
    batch_size: int,
    detect: Callable[[list[Tensor]], list[Detections]],
    outputs: Outputs,
    runtime: str,
) -> int:
    """Detect in all frames of the sources, print what was detected, and write it.

    Returns:
        0, or 1 if something could not be read or written.
    """
    from tools.sources import Failure, Frame

    console = TextConsole(soft_wrap=True)
    failures: list[str] = []
    seconds = dict.fromkeys(("reading", "detecting", "writing"), 0.0)
    images = 0
    started = time.perf_counter()
    with outputs:
        for batch in _batches(sources, batch_size, seconds, console):
            frames = [item for item in batch if isinstance(item, Frame)]
            failures += [item.message for item in batch if isinstance(item, Failure)]
            start = time.perf_counter()
            results = detect([frame.image for frame in frames]) if frames else []
            seconds["detecting"] += time.perf_counter() - start
            start = time.perf_counter()
            for frame, detections in zip(frames, results, strict=True):
                console.print(printable(f"{frame.name}: {describe(detections)}"))
                try:
                    outputs.write(frame, detections)
                    images += 1
                except Exception as error:  # encoders raise any error; other images can be written
                    failures.append(f"{frame.name}: cannot be drawn or written ({error})")
            seconds["writing"] += time.perf_counter() - start
    console.print(printable(f"{counted(images, 'image')} and results.json in {outputs.folder}"))
    console.print(_speed(images, time.perf_counter() - started, runtime, seconds))
    for failure in failures:
        console.print(printable(failure), style="red")
    return 1 if failures else 0


def check_classes(names: Sequence[str] | None, detector: Detector) -> None:
    """Raise a ValueError if the detector does not have one of the classes."""
    for name in names or ():
        if name not in detector.classes:
            near = difflib.get_close_matches(name, detector.classes, 1)
            hint = f": did you mean {near[0]}?" if near else ""
            raise ValueError(printable(f"the model has no class {name!r}{hint}"))


def describe(found: Detections) -> str:
    """Return the number of each class: "3 person, 1 dog"."""
    counts: dict[str, int] = {}
    for name in found.names:
        counts[name] = counts.get(name, 0) + 1
    return ", ".join(f"{n} {name}" for name, n in counts.items()) or "no detections"


def _batches(
    sources: Sequence[Source], batch_size: int, seconds: dict[str, float], console: TextConsole
) -> Iterator[list[Frame | Failure]]:
    """Yield frames, which a thread reads ahead; adds the time of waiting for them."""
    from tools.sources import read_ahead, read_frames_of

    items = read_ahead(read_frames_of(sources), 2 * batch_size)
    total = len(sources) if all(source.kind == "image" for source in sources) else None
    shown = track(items, "detecting", total, console=console,
                  disable=not console.is_terminal)  # fmt: skip
    shown = iter(shown)
    while True:
        start = time.perf_counter()
        batch = list(islice(shown, batch_size))
        seconds["reading"] += time.perf_counter() - start
        if not batch:
            return
        yield batch


def _speed(images: int, total: float, runtime: str, seconds: dict[str, float]) -> str:
    """Return "8 images in 2.0 s by PyTorch 2.9.0, 4.0 images/s: 0.1 s reading, ..."."""
    stages = ", ".join(f"{value:.1f} s {stage}" for stage, value in seconds.items())
    speed = f"{total:.1f} s by {runtime}, {images / total:.1f} images/s"
    return f"{counted(images, 'image')} in {speed}: {stages}"


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
