"""`fcos-zoo demo` and `fcos-zoo serve`: both give the boxes that the detector gives."""

from __future__ import annotations

import functools
import http.server
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import zoo
from fcos.data.shapes import write
from tools import demo
from tools.cli import main
from tools.serve import app

TINY = "FCOS_shapes_tiny"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
THRESHOLD = 0.5
# Chromium can offer WebGPU in software, which the page avoids unless it looks like a graphics card.
SOFTWARE_WEBGPU = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")
LIKE_A_CARD = """
Object.defineProperty(GPUAdapterInfo.prototype, "isFallbackAdapter", { get: () => false });
"""
NO_DEVICE = 'GPUAdapter.prototype.requestDevice = async () => { throw Error("no device"); };'
NO_SUBMIT = 'GPUQueue.prototype.submit = () => { throw Error("device lost"); };'
CAMERA = "--use-fake-device-for-media-stream"
CAMERA_PERMISSION = "--use-fake-ui-for-media-stream"


def test_without_npm_the_error_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert main(["demo", TINY, "--out", str(tmp_path)]) == 1
    assert "install Node.js, or name the dist folder" in capsys.readouterr().err


def test_a_runtime_folder_without_the_files_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    arguments = ["demo", TINY, "--runtime", str(tmp_path / "empty"), "--out", str(tmp_path)]
    assert main(arguments) == 1
    assert demo.RUNTIME_FILES[0] in capsys.readouterr().err


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page, served on this machine."""
    if shutil.which("npm") is None:
        pytest.skip("needs npm, for onnxruntime-web")
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    site = tmp_path_factory.mktemp("site")
    try:
        demo.demo(TINY, out=site)
    except RuntimeError as error:
        pytest.skip(f"needs the npm registry: {error}")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def open_page(address: str) -> Iterator[Callable[..., Any]]:
    """Opens the page in a Chromium with given flags, after a script that changes the browser."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium (Debian: chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright (extra dev)")
    errors: list[str] = []
    with playwright.sync_playwright() as driver:

        def open_page(*flags: str, script: str = "") -> Any:
            page = driver.chromium.launch(executable_path=CHROMIUM, args=flags).new_page()
            page.set_default_timeout(120_000)
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.add_init_script(script)
            page.goto(address)
            page.get_by_text("is ready").wait_for()
            page.fill("#threshold", str(THRESHOLD))
            return page

        yield open_page
    assert errors == []


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Of drawn shapes, none of which has a score near the threshold; even sides suit videos."""
    drawn = sorted((write(tmp_path, 2, seed=4, size=128).parent / "images").iterdir())[1]
    assert Image.open(drawn).size == (128, 128)
    return drawn


def check_boxes(page: Any, image: Path, score: float = 2e-3, pixels: float = 0.1) -> None:
    """Compare the table of a page with the detector's boxes, within differences."""
    page.locator("#detections tr").first.wait_for()
    rows = [row.split("\t") for row in page.locator("#detections").inner_text().splitlines()]
    [expected] = zoo.get(TINY).detect([image], score_threshold=THRESHOLD)
    assert [row[0] for row in rows] == expected.names == ["triangle", "square"]
    assert [float(row[1]) for row in rows] == pytest.approx(expected.scores.tolist(), abs=score)
    boxes = [[float(side) for side in row[2:]] for row in rows]
    assert boxes == [pytest.approx(box, abs=pixels) for box in expected.boxes.tolist()]


def status(page: Any) -> str:
    return str(page.locator("#status").inner_text())


def test_the_page_gives_the_detector_s_boxes(
    open_page: Callable[..., Any], image: Path, tmp_path: Path
) -> None:
    page = open_page(*SOFTWARE_WEBGPU)
    page.set_input_files("#image", str(image))
    check_boxes(page, image)
    assert "(WASM)" in status(page)
    (tmp_path / "other.onnx").write_bytes(b"nonsense")
    page.set_input_files("#model", str(tmp_path / "other.onnx"))
    page.get_by_text("other.onnx was not written by fcos-zoo export").wait_for()
    page.goto(demo.PAGE.as_uri())  # a browser loads no modules from files
    page.get_by_text("run python -m http.server").wait_for()


def test_webgpu_gives_the_detector_s_boxes(open_page: Callable[..., Any], image: Path) -> None:
    page = open_page(*SOFTWARE_WEBGPU, script=LIKE_A_CARD)
    if not page.evaluate("async () => Boolean(await navigator.gpu?.requestAdapter())"):
        pytest.skip("this Chromium offers no adapter of WebGPU")
    page.set_input_files("#image", str(image))  # its first run compiles shaders
    check_boxes(page, image)
    assert "(WebGPU)" in status(page)


@pytest.mark.parametrize(
    ("at_start", "when_ready"),
    [(NO_DEVICE, ""), (NO_SUBMIT, ""), ("", NO_SUBMIT)],
    ids=["device", "session", "first run"],
)
def test_where_webgpu_fails_the_page_uses_wasm(
    open_page: Callable[..., Any], image: Path, at_start: str, when_ready: str
) -> None:
    page = open_page(*SOFTWARE_WEBGPU, script=LIKE_A_CARD + at_start)
    if not page.evaluate("async () => Boolean(await navigator.gpu?.requestAdapter())"):
        pytest.skip("this Chromium offers no adapter of WebGPU")
    assert ("WebGPU failed" in status(page)) == bool(at_start)
    page.evaluate(f"() => {{ {when_ready} }}")
    page.set_input_files("#image", str(image))
    check_boxes(page, image)
    assert "(WASM, since WebGPU failed)" in status(page)


def test_the_webcam_s_frames_are_detected_in_until_it_is_stopped(
    open_page: Callable[..., Any], image: Path, tmp_path: Path
) -> None:
    video = tmp_path / "video.mjpeg"  # of one frame, which Chromium repeats
    Image.open(image).save(video, "JPEG", quality=95)
    page = open_page(CAMERA, CAMERA_PERMISSION, f"--use-file-for-fake-video-capture={video}")
    page.get_by_text("Start the webcam").click()
    check_boxes(page, video, score=0.02, pixels=1.0)  # the browser rounds colours
    tracks = "video.srcObject.getTracks()"
    page.evaluate(f"() => {{ window.tracks = {tracks}; }}")
    assert page.evaluate("tracks.map((track) => track.readyState)") == ["live"]
    page.get_by_text("Stop the webcam").click()
    assert page.evaluate("tracks.map((track) => track.readyState)") == ["ended"]
    check_boxes(page, video, score=0.02, pixels=1.0)
    page.get_by_text("Start the webcam").click()
    page.get_by_text("Stop the webcam").wait_for()
    page.evaluate(f"{tracks}[0].stop()")  # as if it were unplugged
    page.get_by_text("The camera was disconnected.").wait_for()


@pytest.mark.parametrize(
    ("flags", "script", "message"),
    [
        ([f"{CAMERA}=device-count=0", CAMERA_PERMISSION], "", "No camera was found."),
        ([CAMERA, f"{CAMERA_PERMISSION}=deny"], "", "This page was not allowed to use the camera"),
        # As on a page from another machine without https.
        ([], "delete Navigator.prototype.mediaDevices;", "Browsers give the camera only to pages"),
    ],
    ids=["no camera", "no permission", "no https"],
)
def test_without_a_camera_the_page_says_why(
    open_page: Callable[..., Any], flags: list[str], script: str, message: str
) -> None:
    page = open_page(*flags, script=script)
    page.get_by_text("Start the webcam").click()
    page.get_by_text(message).wait_for()
    assert page.get_by_text("Start the webcam").is_enabled()


def test_a_missing_gradio_is_one_line_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["serve", TINY]) == 1
    assert "pip install 'fcos-zoo[demo]'" in capsys.readouterr().err


def test_the_app_gives_the_boxes_of_the_detector(tmp_path: Path) -> None:
    from gradio_client import Client, handle_file

    image = sorted((write(tmp_path, 1, seed=1, size=160).parent / "images").iterdir())[0]
    detector = zoo.get(TINY)
    interface = app(detector, TINY)
    interface.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    try:
        client = Client(interface.local_url, verbose=False)
        _, table = client.predict(handle_file(str(image)), 0.3, api_name="/detect")
    finally:
        interface.close()
    [expected] = detector.detect([image], score_threshold=0.3)
    rows = expected.to_pandas()[["name", "score", "x1", "y1", "x2", "y2"]].round(4)
    assert len(rows) > 0
    assert [row[0] for row in table["data"]] == rows["name"].tolist()
    assert [row[1:] for row in table["data"]] == pytest.approx(
        rows.iloc[:, 1:].to_numpy(), abs=1e-3
    )
