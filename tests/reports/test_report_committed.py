"""The committed pages are what the committed results make."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import report

REPORTS = Path(__file__).resolve().parents[2] / "reports"


@pytest.mark.parametrize("page", ["measured.md", "published.md"])
def test_pages_agree_with_results(page: str, tmp_path: Path) -> None:
    results = sorted(map(str, (REPORTS / "results").glob("*.jsonl")))
    assert report.main([*results, "--out", str(tmp_path)]) == 0
    told = "run `fcos-zoo report reports/results/*.jsonl --out reports/latest` and commit it"
    assert (tmp_path / page).read_text() == (REPORTS / "latest" / page).read_text(), told
