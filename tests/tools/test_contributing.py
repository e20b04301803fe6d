"""The files and commands of CONTRIBUTING.md, written and run as printed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import zoo
from tools import cli
from zoo import registry

PAGE = Path(__file__).resolve().parents[2] / "CONTRIBUTING.md"


def test_the_example_backbones_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("timm")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_registered", [])
    monkeypatch.setenv("FCOS_ZOO_CONFIGS", "my_zoo")
    monkeypatch.syspath_prepend("my_zoo")
    blocks = re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for _, text in blocks:
        if file := re.match(r"# (my_zoo/\S+)\n", text):
            path = tmp_path / file[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text[file.end() :])
    assert {"FCOS_mine", "FCOS_atto"} <= {*zoo.names()}
    (commands,) = [text for language, text in blocks if language == "bash"]
    for line in commands.splitlines():
        assert cli.run(shlex.split(line)[1:]) == 0
    for run in ("mine", "atto"):
        assert list((tmp_path / "runs" / run).glob("*.pth"))
