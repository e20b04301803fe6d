"""Find objects in images and videos: boxes drawn, and COCO results as JSON."""

from __future__ import annotations

import argparse
import difflib
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from PIL import ImageFont
from rich.console import Console
from rich.progress import track

import zoo
from fcos import TTA_MULTI_SCALE, Augmentation, Detections, Detector
from fcos.slicing import detect_sliced
from tools.arguments import default_device, exact_float32, positive
from tools.outputs import FORMATS, Outputs
from tools.sources import Failure, Frame, Source, find_sources, read_ahead, read_frames_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Detect in everything that is named, and write drawings and `results.json` into a folder.

    A source that cannot be read does not stop the others, and is reported at the end.
    """
    options = _parse(arguments)
    sources = find_sources(options.images, options.recursive, options.out)
    exact_float32()
    device = options.device or default_device()
    detector = zoo.get(options.name, options.weights, device, options.precision).fuse()
    check_classes(options.classes, detector)
    return predict(
        detector,
        sources,
        options.out,
        score_threshold=options.score_threshold,
        classes=options.classes,
        max_detections=options.max_detections,
        batch_size=options.batch_size,
        slice_size=options.slice,
        tta=TTA_MULTI_SCALE if options.multi_scale else (),
        formats=options.save,
        font_file=options.font,
    )


def predict(
    detector: Detector,
    sources: Sequence[Source],
    out: Path,
    score_threshold: float = 0.3,
    classes: Sequence[str] | None = None,
    max_detections: int | None = None,
    batch_size: int = 1,
    slice_size: int | None = None,
    tta: Sequence[Augmentation] = (),
    formats: Sequence[str] = (),
    font_file: str | None = None,
) -> int:
    """Detect in all frames of the sources, print what was found, and write it.

    Args:
        detector: in eval mode.
        sources: what to read.
        out: the folder to write.
        score_threshold, batch_size, tta: see `Detector.detect`.
        classes: keep only these.
        max_detections: keep only the best of each image; default: the model's limit.
        slice_size: also detect in tiles of this size; see `fcos.slicing`.
        formats, font_file: see `Outputs`.

    Returns:
        0, or 1 if something could not be read or written.
    """
    console = Console(markup=False, highlight=False, soft_wrap=True)
    if max_detections is not None:
        limit = detector.decoder.max_detections
        detector.decoder.max_detections = None if limit is None else max(limit, max_detections)
    failures: list[str] = []
    seconds = dict.fromkeys(("reading", "detecting", "writing"), 0.0)
    images = 0
    started = time.perf_counter()
    with Outputs(out, sources, detector, formats, font_file) as outputs:
        for batch in _batches(sources, batch_size, seconds, console):
            frames = [item for item in batch if isinstance(item, Frame)]
            failures += [item.message for item in batch if isinstance(item, Failure)]
            start = time.perf_counter()
            results = detect(detector, frames, score_threshold, slice_size, tta)
            seconds["detecting"] += time.perf_counter() - start
            start = time.perf_counter()
            for frame, found in zip(frames, results, strict=True):
                kept = found.filter(classes)[:max_detections]
                console.print(plain(f"{frame.name}: {describe(kept)}"))
                try:
                    outputs.write(frame, kept)
                    images += 1
                except Exception as error:  # the encoders raise anything; the others can be written
                    failures.append(f"{frame.name}: cannot be drawn or written ({error})")
            seconds["writing"] += time.perf_counter() - start
    console.print(plain(f"{images} images and results.json in {out}"))
    console.print(_speed(images, time.perf_counter() - started, seconds))
    for failure in failures:
        console.print(plain(failure), style="red")
    return 1 if failures else 0


def detect(
    detector: Detector,
    frames: Sequence[Frame],
    score_threshold: float,
    slice_size: int | None,
    tta: Sequence[Augmentation],
) -> list[Detections]:
    """The detections of each frame; see `predict`."""
    if not frames:
        return []
    images = [frame.image for frame in frames]
    if slice_size is None:
        return detector.detect(images, score_threshold, len(images), tta)
    return [
        detect_sliced(detector, image, slice_size, score_threshold, len(images), tta)
        for image in images
    ]


def check_classes(names: Sequence[str] | None, detector: Detector) -> None:
    """Raise a ValueError if the detector does not have one of the classes."""
    for name in names or ():
        if name not in detector.classes:
            near = difflib.get_close_matches(name, detector.classes, 1)
            hint = f": did you mean {near[0]}?" if near else ""
            raise ValueError(plain(f"the model has no class {name!r}{hint}"))


def describe(found: Detections) -> str:
    """How many of each class: "3 person, 1 dog"."""
    counts: dict[str, int] = {}
    for name in found.names:
        counts[name] = counts.get(name, 0) + 1
    return ", ".join(f"{n} {name}" for name, n in counts.items()) or "no detections"


def plain(text: str) -> str:
    """The text with escapes such as \\x1b for characters that would control the terminal."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def _batches(
    sources: Sequence[Source], batch_size: int, seconds: dict[str, float], console: Console
) -> Iterator[list[Frame | Failure]]:
    """Frames, which a thread reads ahead of the detector; adds the time of waiting for them."""
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


def _speed(images: int, total: float, seconds: dict[str, float]) -> str:
    """ "8 images in 2.0 s, 4.0 images/s: 0.1 s reading, 1.5 s detecting, 0.4 s writing"."""
    stages = ", ".join(f"{value:.1f} s {stage}" for stage, value in seconds.items())
    return f"{images} images in {total:.1f} s, {images / total:.1f} images/s: {stages}"


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _font(text: str) -> str:
    try:
        ImageFont.truetype(text)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text} is not a font file ({error})") from None
    return text


def _formats(text: str) -> list[str]:
    formats = _names(text)
    if unknown := set(formats) - set(FORMATS):
        raise argparse.ArgumentTypeError(
            f"there is no format {min(unknown)}; choose from {', '.join(FORMATS)}"
        )
    return formats


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fcos-zoo predict", description=__doc__)
    add = parser.add_argument
    add("name", help="a model, see `fcos-zoo list`, or a file that training wrote")
    add("images", nargs="+", help="images, videos, folders, globs, URLs, - for an image from "
        "standard input, rtsp:// streams, or the number of a camera")  # fmt: skip
    add("--out", type=Path, default=Path("outputs/predict"), help="folder to write (%(default)s)")
    add("--recursive", action="store_true", help="look into the folders of folders, too")
    add("--score-threshold", type=float, default=0.3,
        help="of the boxes drawn and written (%(default)s)")  # fmt: skip
    add("--classes", type=_names, help="only these, such as person,car")
    add("--max-detections", type=positive, help="only the best of each image")
    add("--slice", type=positive, metavar="PIXELS",
        help="also detect in overlapping tiles of this size, for small objects")  # fmt: skip
    add("--multi-scale", action="store_true",
        help="test-time augmentation by 17 scaled and flipped copies")  # fmt: skip
    add("--batch-size", type=positive, default=1,
        help="images per forward pass (%(default)s); best for images of one size")  # fmt: skip
    add("--save", type=_formats, default=[], help="write csv and yolo files as well: csv,yolo")
    add("--font", type=_font, help="a font file for class names in other scripts")
    add("--weights", help="a path or URL in place of the published file")
    add("--device", help="cpu or cuda; default: cuda where there is one")
    add("--precision", choices=["fp32", "bf16", "fp16"], default="fp32")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
