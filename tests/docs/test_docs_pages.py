"""The documentation: its examples and its notebook run, and its lists of names are complete."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import fcos
import zoo
from tools import cli

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
# What takes minutes on the page is shortened here, and no processes are started to read images.
SHORTER = {
    " run.folder=runs": " data.workers=0 run.folder=runs",
    "schedule.iterations=600 schedule.steps=[450]": "schedule.iterations=2 schedule.steps=[]",
    "--count 400": "--count 12",
    "--count 100": "--count 4",
    "000053.jpg": "000002.jpg",
    "000096.jpg": "000003.jpg",
}


def blocks(page: Path, *languages: str) -> list[tuple[str, str]]:
    """The fenced blocks of a page, with their languages; commands are one line each."""
    whole = page.read_text().replace("\\\n", "")
    found = re.findall(r"^```(\w+)\n(.*?)^```", whole, re.DOTALL | re.MULTILINE)
    return [(language, text) for language, text in found if language in languages]


@pytest.mark.parametrize("page", ["tutorial.md", "how_to.md"])
def test_the_commands_and_examples_of_a_page_run_in_their_order(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for language, text in blocks(DOCS / page, "bash", "python"):
        for long, short in SHORTER.items():
            text = text.replace(long, short)
        if language == "python":
            exec(text, names)
            continue
        for line in text.splitlines():
            assert cli.run(shlex.split(line)[1:]) == 0, line


def test_the_reference_lists_every_public_name() -> None:
    text = (DOCS / "api.md").read_text()
    listed = set(re.findall(r"(?:auto\w+|py:data):: ([\w.]+)", text))
    public = {f"zoo.{name}" for name in zoo.__all__} | {f"fcos.{name}" for name in fcos.__all__}
    assert public <= listed


def test_the_files_that_llms_txt_lists_exist() -> None:
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / "llms.txt").read_text())
    assert links
    for link in links:
        assert (ROOT / link).is_file(), link


def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient (extra dev)")
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(DOCS / "first_steps.ipynb", as_version=4)
    stored = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    assert all(stored[:2])  # shown as it was run
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    assert "circle" in notebook.cells[1].outputs[0].data["text/plain"]
