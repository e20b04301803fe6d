"""The committed pages are what the entries and the committed results make."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from rows import latency

import zoo
from benchmarks import store
from reports import models
from tools.cli import main

REPORTS = models.ROOT / "reports"
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


def test_tables_of_models_agree_with_entries_and_results(tmp_path: Path) -> None:
    shutil.copy(models.ROOT / "README.md", tmp_path)
    models.write(tmp_path)
    for page in ("README.md", models.CARDS):
        assert (tmp_path / page).read_text() == (models.ROOT / page).read_text(), (
            "run `python -m reports.models`"
        )


def test_every_model_has_a_row_and_a_card_with_its_hash() -> None:
    page = (models.ROOT / models.CARDS).read_text()
    for name in zoo.names():
        assert f"| [{name}](#{name.lower()}) |" in page
        card = page.split(f"### {name}\n")[1].split("\n### ")[0]
        for source in zoo.card(name).weights:
            assert (source.digest or "") in card


def test_the_readme_shows_one_model_of_each_backbone_and_only_live_weights() -> None:
    table = models.models()
    shown = models.readme_table(table)
    rows = [line for line in shown.splitlines() if line.startswith("| [")]
    backbones = [row.split(" | ")[1] for row in rows]
    assert len(backbones) == len(set(backbones)) > 10
    assert "dead" not in shown


def test_a_gpu_gets_its_own_column_once_it_was_measured() -> None:
    table = models.models().drop(columns="gpu_ms", errors="ignore")
    assert "| ms, GPU |" not in models.rows(table)
    assert "| ms, GPU |" in models.rows(table.assign(gpu_ms=3.5))


def test_the_times_of_a_machine_have_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results.jsonl"
    for cpu, ms in (("A", 10.0), ("B", 20.0)):
        store.Store(results).append(latency("FCOS_R_50_1x", ms, facts={"cpu": cpu}))
    monkeypatch.setattr(models, "RESULTS", tmp_path)
    table = models.models()
    assert table["cpu_ms"].dropna().to_list() == [10.0]
    assert table.attrs["machines"] == {"cpu_ms": "A, 2 cores"}
