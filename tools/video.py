"""Videos read and written by PyAV, an optional package."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from PIL import Image

TIMEOUT = (10.0, 10.0)  # seconds, to open a stream and without a frame
FALLBACK_RATE = Fraction(25)  # frames per second, where a video does not say
CAMERAS = {  # FFmpeg's format and device, by `sys.platform`
    "linux": ("v4l2", "/dev/video{}"),
    "darwin": ("avfoundation", "{}"),
    "win32": ("vfwcap", "{}"),
}

VideoFrame = tuple[np.ndarray, Fraction]


def check_installed() -> None:
    """Raise an ImportError that names the remedy if PyAV is not installed."""
    try:
        import av  # noqa: F401
    except ImportError:
        raise ImportError(
            "videos and cameras need PyAV, which is not installed: pip install 'fcos-zoo[video]'"
        ) from None


def read_video(
    file: str | BinaryIO, name: str, input_format: str | None = None
) -> Iterator[VideoFrame]:
    """The frames of a video, turned upright.

    Args:
        file: a path, an address that FFmpeg understands, or an open file.
        name: of the video, in errors.
        input_format: FFmpeg's name of a device; default: by the content.

    Yields:
        (H, W, 3) uint8 RGB and the video's frames per second.

    Raises:
        ValueError: it is not a video, or it is damaged; frames before the damage have been yielded.
    """
    import av

    try:
        with av.open(file, format=input_format, timeout=TIMEOUT) as container:
            if not container.streams.video:
                raise ValueError(f"{name}: no video in it")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            rate = stream.average_rate or FALLBACK_RATE
            for frame in container.decode(stream):
                yield np.rot90(frame.to_ndarray(format="rgb24"), _quarter_turns(frame)), rate
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"{name}: not a readable video ({error})") from None


def read_stream(location: str, name: str) -> Iterator[VideoFrame]:
    """The frames of a network stream, or of the camera of a number; see `read_video`."""
    if not location.isdecimal():
        return read_video(location, name)
    if sys.platform not in CAMERAS:
        raise ValueError(f"camera {name}: cameras are not supported on {sys.platform}")
    input_format, device = CAMERAS[sys.platform]
    return read_video(device.format(location), f"camera {name}", input_format)


class VideoWriter:
    """Write images as an H.264 video; images of other sizes are scaled to that of the first."""

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
        """Write what is left and close the file."""
        if self.size is not None:
            self.container.mux(self.stream.encode(None))
        self.container.close()


def _quarter_turns(frame: Any) -> int:
    """The counterclockwise turns that make a frame upright, as phones record them."""
    return round(getattr(frame, "rotation", 0) / 90) % 4
