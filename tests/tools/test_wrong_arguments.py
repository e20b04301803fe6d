"""What a command cannot use gets one line that names it and says what to give instead."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools.cli import main

TINY = "FCOS_shapes_tiny"
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The working directory, with an empty folder and files of other kinds."""
    monkeypatch.setenv("FCOS_ZOO_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    for name in ("README.md", "model.onnx", "notes.txt"):
        Path(name).write_text("text")


def files() -> list[Path]:
    return sorted(p for p in Path.cwd().rglob("*") if p.is_file() and p.name != "run.lock")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("demo README.md", "README.md is a text message"),
        ("demo --runtime empty", "empty lacks ort.webgpu.min.mjs: name the dist folder of the npm"),
        ("train nope.pth", "nope.pth is a file: name an entry, and init.checkpoint=nope.pth to"),
        ("export model.onnx", "model.onnx is an exported file: name an entry, or a file that"),
        (f"export {TINY} --format ,", "',' names no format"),
        (f"export {TINY} --out a.onnx", "--out: is a folder, not a file like a.onnx"),
        (f"export {TINY} --format onnx --precision int8 --calibrate empty", "empty"),
        ("predict model.onnx notes.txt --multi-scale", "leave out --multi-scale"),
        ("evaluate model.onnx --multi-scale", "model.onnx has no test-time augmentation: leave"),
        ("info hf://me/mine", "no entry 'hf://me/mine' in the zoo: give an address as the weights"),
        ("info hf://me/mine/best.pth", "address as the weights of an entry: weights=... or --wei"),
        ("demo model.onnx", "model.onnx is damaged or of another program"),
        (f"evaluate {TINY} --dataset WRONG", "path 'WRONG' does not exist"),
        (f"evaluate {TINY} --dataset empty", "empty holds neither annotations/*.json nor"),
        (f"train {TINY} data=empty", "empty holds neither annotations/*.json nor"),
        (f"train {TINY} data.train=empty", "empty holds neither annotations/*.json nor"),
        ("data check empty", "empty holds neither annotations/*.json nor"),
        ("data check WRONG", "WRONG: no such file or folder; check the path"),
    ],
)
def test_an_error_names_the_argument_and_the_remedy(
    capsys: Capture, command: str, message: str
) -> None:
    before = files()
    assert main(command.split()) > 0
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert files() == before  # no work was begun


def test_info_as_json_is_read_back(capsys: Capture) -> None:
    assert main(["info", TINY, "--json", "--parameters"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["name"], facts["permissive"]) == (TINY, True)
    assert facts["configuration"]["loss"]["box"] == "giou"
    weights = facts["weights"][0]
    assert len(weights["sha256"]) == 64
    assert facts["parameters"] == pytest.approx(0.58e6, rel=0.01)
    assert main(["info", weights["url"], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["classes"] == ["circle", "square", "triangle"]
