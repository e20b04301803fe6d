"""The tables of models in the README and in docs/models.md are what entries and results make."""

from __future__ import annotations

import shutil
from pathlib import Path

import zoo
from reports import models

COMMAND = "run `python -m reports.models` and commit README.md and docs/models.md"


def test_the_committed_tables_agree_with_entries_and_results(tmp_path: Path) -> None:
    shutil.copy(models.ROOT / "README.md", tmp_path)
    models.write(tmp_path)
    for page in ("README.md", models.CARDS):
        assert (tmp_path / page).read_text() == (models.ROOT / page).read_text(), COMMAND


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
