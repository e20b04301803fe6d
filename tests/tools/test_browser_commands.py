"""`fcos-zoo demo` and `fcos-zoo serve`: both give the boxes that the detector gives."""

from __future__ import annotations

import functools
import http.server
import importlib.util
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import zoo
from fcos.data.shapes import write
from tools import demo
from tools.cli import main
from tools.serve import app

TINY = "FCOS_shapes_tiny"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
GRADIO = importlib.util.find_spec("gradio") is not None


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


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: chromium)")
def test_the_page_gives_the_detector_s_boxes(address: str, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright (extra dev)")
    image = sorted((write(tmp_path, 4, seed=1, size=160).parent / "images").iterdir())[0]
    errors: list[str] = []
    with playwright.sync_playwright() as driver:
        page = driver.chromium.launch(executable_path=CHROMIUM).new_page()
        page.set_default_timeout(60_000)
        page.goto(demo.PAGE.as_uri())  # a browser loads no modules from files
        page.get_by_text("run python -m http.server").wait_for()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        page.get_by_text("is ready").wait_for()
        page.set_input_files("#image", str(image))
        page.locator("#detections tr").first.wait_for()
        rows = [row.split("\t") for row in page.locator("#detections").inner_text().splitlines()]
        (tmp_path / "other.onnx").write_bytes(b"nonsense")
        page.set_input_files("#model", str(tmp_path / "other.onnx"))
        page.get_by_text("other.onnx was not written by fcos-zoo export").wait_for()
    [expected] = zoo.get(TINY).detect([image], score_threshold=0.3)
    assert len(expected) > 0
    assert [row[0] for row in rows] == expected.names
    assert [float(row[1]) for row in rows] == pytest.approx(expected.scores.tolist(), abs=2e-3)
    boxes = [[float(side) for side in row[2:]] for row in rows]
    assert boxes == [pytest.approx(box, abs=0.1) for box in expected.boxes.tolist()]
    assert errors == []


@pytest.mark.skipif(GRADIO, reason="gradio is installed")
def test_a_missing_gradio_is_one_line_with_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", TINY]) == 1
    assert "pip install 'fcos-zoo[demo]'" in capsys.readouterr().err


@pytest.mark.skipif(not GRADIO, reason="needs gradio (extra demo)")
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
