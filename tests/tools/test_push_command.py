"""The commands that pin weights, and that publish weights and results."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import rows
import torch
import yaml
from mirrors import COMMIT, HubServer

import zoo
from benchmarks import store
from benchmarks.cases import Case, Result, Weights
from tools import cli, pin
from zoo import registry
from zoo.sources import FileSource

ENTRY = "FCOS_shapes_tiny"  # its weights are part of the package
MEASURED = "FCOS_R_50_FPN_1x"
BODY = b"\x80\x02" + bytes(1000)  # its first bytes are those of a pickle


def test_pin_writes_the_facts_of_the_hub_and_keeps_the_rest(hub: HubServer, tmp_path: Path) -> None:
    hub.store("me/mine/a.pth", BODY)
    url, dead = "hf://me/mine/a.pth", "{url: https://gone.example/a.pth, dead: true, note: gone}"
    entry = tmp_path / "entry.yaml"
    text = (
        f"# why\nsource: x\nweights:\n  - {url}  # the authors'\n  - {dead}\nhead: {{a: [1,  2]}}\n"
    )
    entry.write_text(text)
    actual = pin.pin(entry, FileSource(url))
    assert actual.url == f"hf://me/mine@{COMMIT}/a.pth"
    assert (actual.size, actual.sha256) == (len(BODY), hashlib.sha256(BODY).hexdigest())
    facts = f"size: {actual.size}, sha256: {actual.sha256}"
    line = f"  - {{url: '{actual.url}', {facts}}}  # the authors'"
    assert entry.read_text() == text.replace(f"  - {url}  # the authors'", line)
    (pinned, _) = yaml.safe_load(entry.read_text())["weights"]
    assert FileSource(**pinned) == actual
    assert pin.pin(entry, actual) == actual

    hub.store("me/mine/a.pth", BODY + b"more")
    before = entry.read_text()
    with pytest.raises(ValueError, match="is now another file: 1006 bytes"):
        pin.pin(entry, actual)
    assert entry.read_text() == before
    assert pin.pin(entry, actual, overwrite=True).size == 1006


def test_pin_goes_through_the_live_sources_of_an_entry(
    hub: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "entry").mkdir()
    name = "FCOS_RT_MS_R_50_4x"
    copy = tmp_path / "entry" / f"{name}.yaml"
    copy.write_text((registry.CONFIGS / "entry" / f"{name}.yaml").read_text())
    monkeypatch.setattr(pin, "entry_file", lambda name: tmp_path / "entry" / f"{name}.yaml")
    repo, _, file = zoo.card(name).weights[0].hub or ("", "", "")
    hub.store(f"{repo}/{file}", BODY)
    assert cli.main(["pin", name]) == 0
    live, dead = yaml.safe_load(copy.read_text())["weights"]
    assert live["sha256"] == hashlib.sha256(BODY).hexdigest()
    assert dead == {"url": zoo.card(name).weights[1].url, "dead": True} | {
        "note": "host switched off in 2023"
    }
    hub.files.clear()
    assert cli.main(["pin", name]) == 1
    assert "404" in capsys.readouterr().out


def results(path: Path, digest: str) -> Path:
    """A results file with an AP of these weights and one of others."""
    facts = {"torch": "2.6", "torchvision": "0.21", "python": "3.11", "commit": "", "code": "x"}
    facts |= {"dirty": False, "gpu": "none", "cpu": "a CPU", "cores": 2}
    file = store.Store(path)
    for ap, weights in ((0.37, digest[:12]), (0.99, "0" * 12)):
        cell = Case(ENTRY, "ap", weights=Weights("file", None, weights))
        outcome = Result("measured", {"AP": ap, "split": "val2017", "images": 5000})
        file.append(store.row_of(cell, outcome, facts, "fcos-zoo bench"))
    return path


@pytest.mark.usefixtures("hub")
def test_push_writes_a_file_that_loads_and_a_page_with_its_figures(tmp_path: Path) -> None:
    card = zoo.card(ENTRY)
    digest = hashlib.sha256(Path(card.weights[0].url).read_bytes()).hexdigest()
    measured, out = results(tmp_path / "results.jsonl", digest), tmp_path / "out"
    arguments = ["push", ENTRY, "hf://me/mine", "--results", str(measured), "--dry-run", str(out)]
    assert cli.main(arguments) == 0
    page = (out / "README.md").read_text()
    assert yaml.safe_load(page.split("---")[1])["pipeline_tag"] == "object-detection"
    for text in ("| 37.0 |", card.license, "@inproceedings{tian2019fcos"):
        assert text in page
    assert f'address = "hf://me/mine/{ENTRY}.safetensors"' in page
    assert "99.0" not in page
    pushed, ours = zoo.get(ENTRY, weights=out / f"{ENTRY}.safetensors"), zoo.get(ENTRY)
    for key, value in ours.state_dict().items():
        assert torch.equal(pushed.state_dict()[key], value)


def test_a_pushed_model_loads_from_the_hub(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.token = "hf_secret"
    file = f"{ENTRY}.safetensors"
    image = torch.rand(3, 96, 128, generator=torch.Generator().manual_seed(0))
    (before,) = zoo.get(ENTRY)([image])
    assert len(before["boxes"]) > 9
    assert cli.main(["push", ENTRY, "hf://me/mine"]) == 0
    assert sorted(hub.files) == [f"me/mine/{file}", "me/mine/README.md"]
    assert capsys.readouterr() == (f"hf://me/mine: {file}, README.md\n", "")
    for offline in ("", "1"):
        monkeypatch.setenv("FCOS_ZOO_OFFLINE", offline)
        (after,) = zoo.get(ENTRY, weights=f"hf://me/mine/{file}")([image])
        for key, value in before.items():
            assert torch.equal(after[key], value)


def test_push_that_the_hub_refuses_says_why(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    hub.token = "hf_secret"
    assert cli.main(["push", ENTRY, "hf://me/mine"]) == 1
    assert "401" in capsys.readouterr().err
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing answers there
    assert cli.main(["push", ENTRY, "hf://me/mine"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["push", ENTRY, "hf://me/mine"], "FCOS_ZOO_OFFLINE forbids the network"),
        (["push", ENTRY, "me/mine"], "write hf://owner/repository"),
        (["bench", "push", "hf://datasets/me/mine"], "FCOS_ZOO_OFFLINE forbids the network"),
        (["bench", "push", "hf://me/mine"], "write hf://datasets/owner/repository"),
    ],
)
def test_push_needs_the_network_and_an_address(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    message: str,
) -> None:
    monkeypatch.setenv("FCOS_ZOO_OFFLINE", "1")
    assert cli.main(command) == 1
    assert message in capsys.readouterr().err


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """A results file with AP and parameters of an entry."""
    file = store.Store(tmp_path / "results.jsonl")
    few = dict.fromkeys(("AP75", "APs", "APm", "APl"))  # no figures
    file.append(rows.ap(MEASURED, values=few))
    file.append(rows.row(MEASURED, "params", {"parameters": 32_240_000}))
    return file.path


def test_pushed_results_have_figures_with_provenance_and_a_model_index(
    measured: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = ["bench", "push", "hf://datasets/me/fcos", str(measured), "--dry-run", str(out)]
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
    assert model == MEASURED
    assert result["dataset"]["name"] == "val2017"
    assert result["metrics"][0] == {"type": "mAP", "name": "AP", "value": 37.1}
    assert f"| {MEASURED} | fp32 |" in page


def test_results_arrive_at_the_hub(
    measured: Path,
    hub: HubServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.token = "hf_secret"
    assert cli.main(["bench", "push", "hf://datasets/me/fcos", str(measured)]) == 0
    names = ["README.md", "figures.jsonl", "results.jsonl"]
    assert sorted(hub.files) == [f"me/fcos/{name}" for name in names]
    assert any("/api/datasets/me/fcos/commit/main" in path for _, path, _ in hub.asked)
    assert capsys.readouterr().out == f"hf://datasets/me/fcos: {', '.join(names)}\n"
