"""What `predict` reads: files, folders, globs, addresses, standard input, videos, cameras."""

from __future__ import annotations

import functools
import http.server
import io
import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest
from PIL import Image

from tools import sources
from tools.cli import main
from tools.outputs import VideoWriter
from tools.sources import Failure, Frame, Source, find_sources, read_ahead, read_frames_of

SIZE = (64, 48)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """a.png and sub/b.jpg, beside a hidden file and a text file."""
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "sub/b.jpg", ".hidden.png"):
        Image.new("RGB", SIZE, "red").save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    """The address at which the folder is served."""
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    handler = functools.partial(quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def named(found: list[Source]) -> list[str]:
    return [Path(source.name).name for source in found]


def frames_of(*patterns: str) -> list[Frame]:
    frames = list(read_frames_of(find_sources(patterns)))
    assert all(isinstance(frame, Frame) for frame in frames), frames
    return frames  # type: ignore[return-value]


def test_subfolders_are_searched_on_request(folder: Path) -> None:
    assert named(find_sources([str(folder)])) == ["a.png"]
    assert named(find_sources([str(folder)], recursive=True)) == ["a.png", "b.jpg"]
    assert named(find_sources([str(folder)], recursive=True, outputs=folder / "sub")) == ["a.png"]
    assert named(find_sources([str(folder / "**" / "*.jpg")])) == ["b.jpg"]
    (folder / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match="--recursive also reads its subfolders"):
        find_sources([str(folder)])


def test_an_image_that_is_named_twice_is_read_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    given = ["a.png", str(folder / "a.png"), "sub/../a.png", "*.png"]
    assert [source.name for source in find_sources(given)] == ["a.png"]


def test_a_name_of_digits_is_a_file_where_there_is_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("av")
    monkeypatch.chdir(folder)
    assert find_sources(["0"])[0].kind == "stream"
    (folder / "a.png").rename(folder / "0")
    assert find_sources(["0"])[0].kind == "image"
    assert frames_of("0")[0].image.shape == (3, 48, 64)


def test_addresses_are_read(server: str) -> None:
    (frame,) = frames_of(f"{server}/sub/b.jpg?token=secret")
    assert frame.image.shape == (3, 48, 64)
    assert frame.name == f"{server}/sub/b.jpg"
    assert frame.source.file_name == "b.jpg"


def test_a_server_that_cannot_be_reached_is_a_failure_without_secrets() -> None:
    (failure,) = read_frames_of(find_sources(["http://127.0.0.1:1/a.png?token=secret"]))
    assert failure == Failure("http://127.0.0.1:1/a.png cannot be downloaded: ConnectionError")


def test_addresses_that_differ_in_a_hidden_query_have_different_names() -> None:
    found = find_sources([f"https://host/image?id={number}" for number in (1, 2, 2, 3)])
    assert [source.name for source in found] == [
        "https://host/image",
        "https://host/image (2)",
        "https://host/image (3)",
    ]


def test_an_address_that_cannot_be_read_is_a_failure_of_one_line(
    server: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find_sources([f"{server}/none.png", f"{server}/notes.txt", str(folder / "a.png")])
    missing, text, image = read_frames_of(found)
    assert isinstance(missing, Failure)
    assert "none.png cannot be downloaded: 404" in missing.message
    assert isinstance(text, Failure)
    assert "notes.txt: not a readable image" in text.message
    assert isinstance(image, Frame)
    monkeypatch.setattr(sources, "MAX_DOWNLOAD", 10)
    (large,) = read_frames_of(find_sources([f"{server}/a.png"]))
    assert isinstance(large, Failure)
    assert "a.png: larger than" in large.message


def test_standard_input_is_an_image(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = io.TextIOWrapper(io.BytesIO((folder / "a.png").read_bytes()))
    monkeypatch.setattr(sys, "stdin", given)
    (frame,) = frames_of("-")
    assert frame.image.shape == (3, 48, 64)
    assert (frame.name, frame.source.file_name) == ("stdin", "stdin")


@pytest.mark.parametrize("name", ["pages.tiff", "moving.gif", "moving.png", "moving.webp"])
def test_every_frame_is_read(tmp_path: Path, name: str) -> None:
    colours = ["red", "lime", "blue"]
    first, *others = (Image.new("RGB", SIZE, colour) for colour in colours)
    first.save(tmp_path / name, save_all=True, append_images=others)
    frames = frames_of(str(tmp_path / name))
    assert [frame.number for frame in frames] == [0, 1, 2]
    brightest = [int(frame.image[:, 24, 32].int().argmax()) for frame in frames]
    assert brightest == [0, 1, 2]


def test_the_previews_in_a_photograph_are_not_read(tmp_path: Path) -> None:
    """Phones store them as further frames of a JPEG (MPO)."""
    photograph, preview = Image.new("RGB", SIZE), Image.new("RGB", (8, 6))
    photograph.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[preview])
    (frame,) = frames_of(str(tmp_path / "a.jpg"))
    assert (frame.number, frame.image.shape) == (None, (3, 48, 64))


def write_clip(path: Path) -> None:
    """Two frames, of which the upper half is white."""
    writer = VideoWriter(path, Fraction(30000, 1001))
    image = Image.new("RGB", SIZE)
    image.paste("white", (0, 0, 64, 24))
    for _ in range(2):
        writer.write(image)
    writer.close()


def test_a_video_is_read_with_its_rate(tmp_path: Path) -> None:
    pytest.importorskip("av")
    write_clip(tmp_path / "clip.mp4")
    frames = frames_of(str(tmp_path / "clip.mp4"))
    assert [frame.number for frame in frames] == [0, 1]
    assert frames[0].rate == Fraction(30000, 1001)
    assert frames[0].image[:, 4, 4].min() > 200
    assert frames[0].image[:, 44, 4].max() < 50


def test_a_video_of_a_phone_is_turned_upright(tmp_path: Path) -> None:
    """The track header's matrix says by how much; its first two rows are rewritten here."""
    pytest.importorskip("av")
    write_clip(tmp_path / "clip.mp4")
    content = (tmp_path / "clip.mp4").read_bytes()
    header = content.index(b"tkhd")
    one, zero, minus = b"\x00\x01\x00\x00", b"\x00\x00\x00\x00", b"\xff\xff\x00\x00"
    upright = one + zero + zero + zero + one
    quarter_clockwise = zero + one + zero + minus + zero
    place = content.index(upright, header)
    turned = content[:place] + quarter_clockwise + content[place + len(upright) :]
    (tmp_path / "clip.mp4").write_bytes(turned)
    image = frames_of(str(tmp_path / "clip.mp4"))[0].image
    assert image.shape == (3, 64, 48)
    assert image[:, 4, 44].min() > 200  # the upper half is now the right one
    assert image[:, 4, 4].max() < 50


@pytest.mark.parametrize(
    ("source", "message"),
    [("clip.mp4", "clip.mp4: not a readable video"), ("999", "camera 999: ")],
)
def test_a_broken_video_or_missing_camera_is_a_failure_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    pytest.importorskip("av")
    monkeypatch.chdir(tmp_path)
    Path("clip.mp4").write_bytes(b"no video")
    (failure,) = read_frames_of(find_sources([source]))
    assert isinstance(failure, Failure)
    assert message in failure.message


def test_the_password_of_a_camera_is_not_shown() -> None:
    pytest.importorskip("av")
    (source,) = find_sources(["rtsp://me:secret@camera.local/1"])
    assert "secret" in source.location
    assert "secret" not in source.name


def test_a_missing_pyav_is_named_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "clip.mp4").touch()
    monkeypatch.setitem(sys.modules, "av", None)
    assert main(["predict", "FCOS_R_50_1x", str(tmp_path / "clip.mp4")]) == 1
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert "pip install 'fcos-zoo[video]'" in printed


def test_items_are_read_ahead_in_order_and_no_further_than_the_depth() -> None:
    read: list[int] = []
    enough = threading.Event()

    def slow() -> Iterator[int]:
        for number in range(10):
            read.append(number)
            if number == 3:
                enough.set()
            yield number

    items = read_ahead(slow(), depth=3)
    assert next(items) == 0
    assert enough.wait(30)  # the thread has read 1, 2 and 3 by itself
    assert read == [0, 1, 2, 3]
    assert list(items) == list(range(1, 10))


def test_an_error_of_the_reader_arrives_in_its_place() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise ValueError("second")

    items = read_ahead(failing(), depth=4)
    assert next(items) == 1
    with pytest.raises(ValueError, match="second"):
        next(items)
