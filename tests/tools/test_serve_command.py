"""`fcos-zoo serve`: the app answers with the boxes that the detector gives."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import zoo
from fcos.data.shapes import write
from tools.cli import main
from tools.serve import app

TINY = "FCOS_shapes_tiny"
installed = importlib.util.find_spec("gradio") is not None


@pytest.mark.skipif(installed, reason="gradio is installed")
def test_a_missing_gradio_is_one_line_with_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", TINY]) == 1
    assert "pip install 'fcos-zoo[demo]'" in capsys.readouterr().err


@pytest.mark.skipif(not installed, reason="needs gradio (extra demo)")
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
