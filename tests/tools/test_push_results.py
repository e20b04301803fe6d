"""Results on the Hub: figures that a leaderboard reads, each with where it comes from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import rows
import yaml
from huggingface_hub import constants
from mirrors import HubServer, own_settings

from benchmarks.store import Store
from tools import cli

ENTRY = "FCOS_R_50_FPN_1x"


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    own_settings(monkeypatch, tmp_path / "home")
    store = Store(tmp_path / "results.jsonl")
    few = dict.fromkeys(("AP75", "APs", "APm", "APl"))  # no figures
    store.append(rows.ap(ENTRY, values=few))
    store.append(rows.row(ENTRY, "params", {"parameters": 32_240_000}))
    return store.path


def test_the_dataset_has_figures_with_provenance_and_a_model_index(
    results: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = ["bench", "push", "hf://datasets/me/fcos", str(results), "--dry-run", str(out)]
    assert cli.main(arguments) == 0
    stored = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    lines = [json.loads(line) for line in (out / "figures.jsonl").read_text().splitlines()]
    assert [(line["metric"], line["value"]) for line in lines] == [
        *(("ap", pytest.approx(37.1)), ("ap_50", pytest.approx(56.0)), ("params_m", 32.24))
    ]
    assert len({tuple(line) for line in lines}) == 1  # the same columns in every line
    provenance = lines[0]["provenance"]
    text = json.dumps(stored[0], sort_keys=True, separators=(",", ":"))
    assert provenance["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert provenance["commit"] == rows.FACTS["commit"]
    assert provenance["weights"] == "published@abc"
    page = (out / "README.md").read_text()
    facts = yaml.safe_load(page.split("---")[1])
    assert facts["license"] == "cc-by-4.0"
    ((model, result),) = ((m["name"], m["results"][0]) for m in facts["model-index"])
    assert model == ENTRY
    assert result["dataset"]["name"] == "val2017"
    assert result["metrics"][0] == {"type": "mAP", "name": "AP", "value": 37.1}
    assert "| FCOS_R_50_FPN_1x | fp32 |" in page


def test_the_files_arrive_at_the_hub(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with HubServer() as hub:
        hub.token = "hf_secret"
        monkeypatch.setenv("HF_ENDPOINT", hub.url())
        assert cli.main(["bench", "push", "hf://datasets/me/fcos", str(results)]) == 0
        names = ["README.md", "figures.jsonl", "results.jsonl"]
        assert sorted(hub.files) == [f"me/fcos/{name}" for name in names]
        assert any("/api/datasets/me/fcos/commit/main" in path for _, path, _ in hub.asked)
    assert capsys.readouterr().out == f"hf://datasets/me/fcos: {', '.join(names)}\n"
