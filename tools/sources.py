"""The sources of `predict`: files, folders, addresses, standard input, videos and cameras."""

from __future__ import annotations

import glob
import io
import os
import sys
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import unquote, urlsplit

import numpy as np
import requests
import torch
from torch import Tensor

from fcos.image_io import SUFFIXES, read_frames
from zoo.sources import without_secrets

VIDEO_SUFFIXES = {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv"}
STREAMS = ("rtsp://", "rtsps://", "rtmp://")
MAX_DOWNLOAD = 1 << 29  # bytes
TIMEOUT = (10, 30)  # seconds, to connect and without a byte
STREAM_TIMEOUT = (10.0, 10.0)  # seconds, to open a stream and without a frame
FALLBACK_RATE = Fraction(25)  # frames per second, if a video does not state it
CAMERAS = {  # FFmpeg's format and device, by `sys.platform`
    "linux": ("v4l2", "/dev/video{}"),
    "darwin": ("avfoundation", "{}"),
    "win32": ("vfwcap", "{}"),
}

Item = TypeVar("Item")


@dataclass(frozen=True)
class Source:
    """A source of images.

    `location` is a path, an address, "-" or the number of a camera; `name` is its printed name,
    without passwords.
    """

    location: str
    name: str
    kind: Literal["image", "video", "stream"]

    @property
    def file_name(self) -> str:
        """The last part of the path or address, such as "street.jpg"."""
        if self.location == "-":
            return "stdin"
        if self.kind == "stream":
            return f"camera{self.location}" if self.location.isdecimal() else "stream"
        if is_address(self.location):
            return Path(unquote(urlsplit(self.location).path)).name or "download"
        return Path(self.location).name


@dataclass(frozen=True)
class Frame:
    """An RGB image (3, H, W), uint8; `number` counts the frames of its source from 0.

    `number` is None for the image of a source that has only one; `rate` is frames per second.
    """

    source: Source
    image: Tensor
    number: int | None = None
    rate: Fraction | None = None

    @property
    def name(self) -> str:
        """The printed source and number."""
        return self.source.name + ("" if self.number is None else f" frame {self.number}")


@dataclass(frozen=True)
class Failure:
    """A source that cannot be read, at least not to its end; the message names it."""

    message: str


def find_sources(
    patterns: Sequence[str], recursive: bool = False, outputs: Path | None = None
) -> list[Source]:
    """Find the sources that paths, folders, globs, addresses, "-" and camera numbers name.

    Args:
        patterns: the user's arguments.
        recursive: also search subfolders.
        outputs: a folder to skip if it is inside one that is searched.

    Raises:
        FileNotFoundError: a pattern matches nothing.
        ImportError: there are videos, but the package that reads them is not installed.
    """
    found: dict[str, Source] = {}
    names: set[str] = set()
    for pattern in patterns:
        for source in _matches(pattern, recursive, outputs):
            key = source.location
            key = os.path.abspath(key) if os.path.exists(key) else key
            if key not in found:
                found[key] = _with_own_name(source, names)
                names.add(found[key].name)
    if any(source.kind != "image" for source in found.values()) and not find_spec("av"):
        raise ImportError(
            "videos and cameras need PyAV, which is not installed: pip install 'fcos-zoo[video]'"
        )
    return list(found.values())


def read_frames_of(sources: Iterable[Source]) -> Iterator[Frame | Failure]:
    """Yield the frames of all sources; one that cannot be read does not stop the others."""
    for source in sources:
        try:
            yield from _frames(source)
        except (ValueError, OSError) as error:
            yield Failure(without_secrets(str(error)))


def read_ahead(items: Iterator[Item], depth: int) -> Iterator[Item]:
    """Yield the same items, of which a thread prepares up to `depth` in advance."""
    end = object()
    pool = ThreadPoolExecutor(1)
    try:
        pending = deque(pool.submit(next, items, end) for _ in range(depth))
        while (item := pending.popleft().result()) is not end:
            pending.append(pool.submit(next, items, end))
            yield item  # type: ignore[misc]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def is_address(text: str) -> bool:
    """Whether `text` is the address of a file on the web."""
    return text.startswith(("http://", "https://"))


def _matches(pattern: str, recursive: bool, outputs: Path | None) -> list[Source]:
    path = Path(pattern)
    if path.is_dir():
        names = path.rglob("*") if recursive else path.iterdir()
        files = sorted(p for p in names if _is_wanted(p, outputs))
    elif path.exists():
        files = [path]
    elif pattern == "-":
        return [Source("-", "stdin", "image")]
    elif pattern.isdecimal() or pattern.startswith(STREAMS):
        return [Source(pattern, without_secrets(pattern), "stream")]
    elif is_address(pattern):
        suffix = Path(urlsplit(pattern).path).suffix
        return [Source(pattern, without_secrets(pattern), _kind(suffix))]
    else:
        files = [Path(p) for p in sorted(glob.glob(pattern, recursive=True)) if Path(p).is_file()]
    if not files:
        hint = "" if recursive or not path.is_dir() else "; --recursive also reads its subfolders"
        raise FileNotFoundError(f"no image at {pattern}{hint}")
    return [Source(str(file), str(file), _kind(file.suffix)) for file in files]


def _with_own_name(source: Source, taken: Collection[str]) -> Source:
    """Return the source, numbered if another has its name, as addresses may without queries."""
    name, number = source.name, 1
    while name in taken:
        number += 1
        name = f"{source.name} ({number})"
    return replace(source, name=name)


def _is_wanted(path: Path, outputs: Path | None) -> bool:
    """Whether a file is an image or video, not hidden, and not an output of this command."""
    known = path.suffix.lower() in {*SUFFIXES, *VIDEO_SUFFIXES}
    if not known or path.name.startswith("."):
        return False
    return outputs is None or outputs.resolve() not in path.resolve().parents


def _kind(suffix: str) -> Literal["image", "video"]:
    return "video" if suffix.lower() in VIDEO_SUFFIXES else "image"


def _frames(source: Source) -> Iterator[Frame]:
    if source.kind == "stream" and source.location.isdecimal():
        if sys.platform not in CAMERAS:
            raise ValueError(f"camera {source.name}: cameras are not supported on {sys.platform}")
        format, device = CAMERAS[sys.platform]
        name = f"camera {source.name}"
        yield from _video_frames(source, device.format(source.location), name, format)
    elif source.kind == "stream":
        yield from _video_frames(source, source.location, source.name)
    elif source.kind == "video":
        yield from _video_frames(source, _open(source.location), source.name)
    else:
        for index, image in read_frames(_open(source.location), source.name):
            yield Frame(source, _tensor(np.array(image)), index)


def _video_frames(
    source: Source, file: str | io.BytesIO, name: str, input_format: str | None = None
) -> Iterator[Frame]:
    """Yield the frames of a video, rotated as its metadata say.

    Args:
        source: the source of the frames.
        file: a path, an address that FFmpeg understands, or an open file.
        name: the video's name in errors.
        input_format: FFmpeg's name of a device; default: by the content.

    Raises:
        ValueError: it is not a video, or it is damaged; frames before the damage have been yielded.
    """
    import av

    try:
        with av.open(file, format=input_format, timeout=STREAM_TIMEOUT) as container:
            if not container.streams.video:
                raise ValueError(f"{name}: no video in it")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            rate = stream.average_rate or FALLBACK_RATE
            for number, frame in enumerate(container.decode(stream)):
                # Phones record by how much a frame must be rotated counterclockwise.
                turns = round(getattr(frame, "rotation", 0) / 90) % 4
                array = np.rot90(frame.to_ndarray(format="rgb24"), turns)
                yield Frame(source, _tensor(array), number, rate)
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"{name}: not a readable video ({error})") from None


def _tensor(array: np.ndarray) -> Tensor:
    """Convert (H, W, 3) to (3, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)


def _open(location: str) -> str | io.BytesIO:
    """Return a path unchanged, or the bytes from an address or from standard input."""
    if location == "-":
        return io.BytesIO(sys.stdin.buffer.read())
    return io.BytesIO(download(location)) if is_address(location) else location


def download(address: str) -> bytes:
    """Download the bytes at an http or https address.

    Raises:
        OSError: the server cannot be reached, refuses, or sends more than `MAX_DOWNLOAD`.
    """
    content = bytearray()
    try:
        with requests.get(address, stream=True, timeout=TIMEOUT) as response:
            response.raise_for_status()
            for block in response.iter_content(1 << 18):
                content += block
                if len(content) > MAX_DOWNLOAD:
                    raise OSError(
                        f"{address}: larger than {MAX_DOWNLOAD >> 20} MiB; download it first"
                    )
    except requests.RequestException as error:
        # The message of a failed connection would show the query, which may be a password.
        answer = error.response
        reason = type(error).__name__ if answer is None else f"{answer.status_code} {answer.reason}"
        raise OSError(f"{address} cannot be downloaded: {reason}") from None
    return bytes(content)
