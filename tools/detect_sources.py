"""Detect in every source, print what was found, and write it: the work of `fcos-zoo predict`."""

from __future__ import annotations

import difflib
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from rich.progress import track

from fcos import Augmentation, Detections, Detector
from fcos.slicing import detect_sliced
from fcos.text import counted, printable
from tools.console import TextConsole
from tools.outputs import Outputs
from tools.sources import Failure, Frame, Source, read_ahead, read_frames_of


def detect_sources(
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
    console = TextConsole(soft_wrap=True)
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
                console.print(printable(f"{frame.name}: {describe(kept)}"))
                try:
                    outputs.write(frame, kept)
                    images += 1
                except Exception as error:  # the encoders raise anything; the others can be written
                    failures.append(f"{frame.name}: cannot be drawn or written ({error})")
            seconds["writing"] += time.perf_counter() - start
    console.print(printable(f"{counted(images, 'image')} and results.json in {out}"))
    console.print(_speed(images, time.perf_counter() - started, seconds))
    for failure in failures:
        console.print(printable(failure), style="red")
    return 1 if failures else 0


def detect(
    detector: Detector,
    frames: Sequence[Frame],
    score_threshold: float,
    slice_size: int | None,
    tta: Sequence[Augmentation],
) -> list[Detections]:
    """The detections of each frame; see `detect_sources`."""
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
            raise ValueError(printable(f"the model has no class {name!r}{hint}"))


def describe(found: Detections) -> str:
    """How many of each class: "3 person, 1 dog"."""
    counts: dict[str, int] = {}
    for name in found.names:
        counts[name] = counts.get(name, 0) + 1
    return ", ".join(f"{n} {name}" for name, n in counts.items()) or "no detections"


def _batches(
    sources: Sequence[Source], batch_size: int, seconds: dict[str, float], console: TextConsole
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
    return f"{counted(images, 'image')} in {total:.1f} s, {images / total:.1f} images/s: {stages}"
