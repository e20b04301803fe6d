"""The committed pages are what the committed results make."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.cli import main

REPORTS = Path(__file__).resolve().parents[2] / "reports"
COMMAND = "run `fcos-zoo report reports/results/*.jsonl --out reports/latest` and commit it"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    results = sorted(map(str, (REPORTS / "results").glob("*.jsonl")))
    assert main(["report", *results, "--out", str(folder)]) == 0
    return folder


@pytest.mark.parametrize("page", ["README.md", "measured.md", "published.md"])
def test_pages_agree_with_results(page: str, made: Path) -> None:
    assert (made / page).read_text() == (REPORTS / "latest" / page).read_text(), COMMAND


def test_charts_agree_with_results(made: Path) -> None:
    charts = sorted(path.name for path in made.glob("*.svg"))
    assert charts == sorted(path.name for path in (REPORTS / "latest").glob("*.svg")), COMMAND
    for name in charts:  # how Matplotlib draws them varies with its version
        new, old = (
            re.findall(r"<title>.*?</title>", (folder / name).read_text())
            for folder in (made, REPORTS / "latest")
        )
        assert new == old, COMMAND
