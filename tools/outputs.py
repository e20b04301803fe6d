"""The output of `predict`: drawn images and videos, COCO results, CSV and YOLO text."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torchvision.ops import box_convert

from fcos import Detections, Detector
from fcos.coco_eval import Result, to_coco_results
from tools.sources import FALLBACK_RATE, Frame, Source, is_address

COLUMNS = ("file", "frame", "class", "score", "x1", "y1", "x2", "y2")


class Outputs:
    """Writes detections into a folder one by one; use it in a `with` statement.

    Images are drawn to NAME.jpg, videos to NAME.mp4, and the frames of animations to
    NAME/000000.jpg; all detections are in `results.json`.

    Args:
        folder: created if it does not exist.
        sources: all sources of the detections.
        detector: the detector, whose classes and category ids are written.
        formats: "csv" also writes `results.csv`; "yolo" also writes `labels/NAME.txt`, one line
            "class x y width height" a detection, relative to the image, and `classes.txt`.
        font_file: see `fcos.drawing.draw_boxes`.
    """

    def __init__(
        self,
        folder: Path,
        sources: Sequence[Source],
        detector: Detector,
        formats: Sequence[str] = (),
        font_file: str | None = None,
    ) -> None:
        self.folder = folder
        self.font_file = font_file
        self.formats = formats
        self.category_ids = category_ids(detector)
        self.plus_one = detector.decoder.plus_one
        self.targets = dict(zip(sources, drawn_names(sources, folder), strict=True))
        self.ids = dict(zip(sources, image_ids([s.name for s in sources]), strict=True))
        self.results: list[Result] = []
        self.rows: list[list[Any]] = []
        self.video: tuple[Source, VideoWriter] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        if "yolo" in formats:
            text = "".join(f"{name}\n" for name in detector.classes)
            (folder / "classes.txt").write_text(text, "utf-8", "backslashreplace")

    def __enter__(self) -> Outputs:
        return self

    def __exit__(self, *error: object) -> None:
        (self.folder / "results.json").write_text(json.dumps(self.results, indent=1))
        if "csv" in self.formats:
            path = self.folder / "results.csv"
            with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
                csv.writer(file).writerows([COLUMNS, *self.rows])
        self._close_video()

    def write(self, frame: Frame, found: Detections) -> None:
        """Write the detections of one image, first as numbers, then drawn.

        Raises:
            Exception: Pillow's or FFmpeg's encoder failed; the detections' numbers are kept.
        """
        self.results += self._coco_results(frame, found)
        boxes, scores = found.boxes.tolist(), found.scores.tolist()
        for box, score, name in zip(boxes, scores, found.names, strict=True):
            self.rows.append([frame.source.name, frame.number, name, score, *box])
        drawn = self.targets[frame.source]
        if frame.number is not None:
            drawn = drawn / f"{frame.number:06d}"
        if "yolo" in self.formats:
            self._write_yolo(drawn, found)
        if frame.source.kind == "image":
            path = (self.folder / drawn).with_name(f"{drawn.name}.jpg")
            path.parent.mkdir(exist_ok=True)
            found.save(path, self.font_file)
        else:
            self._write_video(frame, found)

    def _coco_results(self, frame: Frame, found: Detections) -> list[Result]:
        """Return COCO's results format, with the class name and the file of each detection."""
        where: Result = {"file_name": frame.source.name}
        image_id = self.ids[frame.source]
        if frame.number is not None:
            where["frame"] = frame.number
            image_id = f"{image_id}#{frame.number}"
        tensors = found.boxes, found.scores, found.labels
        rows = to_coco_results(image_id, *tensors, self.category_ids, self.plus_one)
        return [
            {**row, "category": name, **where} for row, name in zip(rows, found.names, strict=True)
        ]

    def _write_yolo(self, name: Path, found: Detections) -> None:
        height, width = found.image.shape[-2:]
        boxes = box_convert(found.boxes.cpu(), "xyxy", "cxcywh") / torch.tensor([width, height] * 2)
        lines = (
            f"{label} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n"
            for label, (x, y, w, h) in zip(found.labels.tolist(), boxes.tolist(), strict=True)
        )
        path = self.folder / "labels" / name.with_name(f"{name.name}.txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(lines))

    def _write_video(self, frame: Frame, found: Detections) -> None:
        if self.video is None or self.video[0] != frame.source:
            self._close_video()
            target = self.targets[frame.source]
            path = (self.folder / target).with_name(f"{target.name}.mp4")
            self.video = frame.source, VideoWriter(path, frame.rate or FALLBACK_RATE)
        self.video[1].write(found.draw(font_file=self.font_file))

    def _close_video(self) -> None:
        if self.video is not None:
            self.video[1].close()
            self.video = None


class VideoWriter:
    """Writes images as an H.264 video; images of other sizes are scaled to that of the first."""

    def __init__(self, path: Path, rate: Fraction) -> None:
        import av

        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        self.container = av.open(str(path), "w")
        self.stream = cast(Any, self.container.add_stream(codec, rate=rate))
        self.stream.pix_fmt = "yuv420p"
        self.size: tuple[int, int] | None = None

    def write(self, image: Image.Image) -> None:
        """Append a frame."""
        import av

        if self.size is None:
            # Chroma has half the resolution, so that both sides must be even.
            self.size = (max(2, image.width // 2 * 2), max(2, image.height // 2 * 2))
            self.stream.width, self.stream.height = self.size
        if image.size != self.size:
            image = image.resize(self.size)
        frame = av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")
        self.container.mux(self.stream.encode(frame))

    def close(self) -> None:
        """Write the remaining frames and close the file."""
        if self.size is not None:
            self.container.mux(self.stream.encode(None))
        self.container.close()


def image_ids(names: Sequence[str]) -> list[int | str]:
    """Return a unique image id for each file.

    It is the file's number, as in COCO's own files, if no other file has that number; else its
    name, if no other file has that name; else the whole path.
    """
    paths = [Path(name) for name in names]
    numbers = Counter(int(path.stem) for path in paths if path.stem.isdecimal())
    file_names = Counter(path.name for path in paths)
    ids: list[int | str] = []
    for name, path in zip(names, paths, strict=True):
        if path.stem.isdecimal() and numbers[int(path.stem)] == 1:
            ids.append(int(path.stem))
        else:
            ids.append(path.name if file_names[path.name] == 1 else name)
    return ids


def category_ids(detector: Detector) -> Sequence[int]:
    """Return the category ids of the model's dataset, or numbers from 1 for other classes."""
    config = detector.card.config
    own = list(detector.classes) == list(config["classes"])
    counted = range(1, len(detector.classes) + 1)
    return config.get("category_ids", counted) if own else counted


def drawn_names(sources: Sequence[Source], folder: Path) -> list[Path]:
    """Return the path of each source's drawing, without suffix.

    It has the file's name, with a number if another drawing, or a file that is read from the same
    folder, has that name.
    """
    files = [Path(s.location) for s in sources if s.kind != "stream" and not is_address(s.location)]
    taken = {file.resolve().with_suffix("") for file in files if file.name}
    names = []
    for source in sources:
        stem, number = Path(source.file_name).stem, 1
        name = stem
        while (folder / name).resolve() in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add((folder / name).resolve())
        names.append(Path(name))
    return names
