"""The commands that fetch, show, check, pin and publish weights."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import constants
from mirrors import COMMIT, FaultyServer, HubServer, own_settings, saved

import zoo
from benchmarks import store
from benchmarks.cases import Case, Result, Weights
from tools import cli, pin
from zoo import cache, imagenet, registry
from zoo.download import fetch
from zoo.sources import FileSource

SMALL = "FCOS_syncbn_bs32_c128_MNV2_FPN_1x"
FILE = f"{SMALL}.pth"
ROOT = Path(cli.__file__).parent.parent
BODY = b"\x80\x02" + bytes(1000)  # what may be a weights file, as far as its first bytes tell


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("COLUMNS", "200")  # wide enough for any table
    return own_settings(monkeypatch, tmp_path / "home")


@pytest.fixture
def mirror(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    """The one place that answers."""
    with FaultyServer() as mirror:
        monkeypatch.setenv("FCOS_ZOO_MIRRORS", mirror.url())
        monkeypatch.setenv("HF_ENDPOINT", mirror.url("hub"))
        yield mirror


@pytest.fixture
def published(mirror: FaultyServer) -> bytes:
    """The weights of a small entry, on the mirror."""
    torch.manual_seed(0)
    return mirror.add(FILE, saved({"model": zoo.build(SMALL).state_dict()})).body


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    return out + err


def test_download_of_several_reports_failures(
    mirror: FaultyServer, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = zoo.names("FCOS_R_*_FPN_*")
    for name in wanted[1:]:
        mirror.add(f"{name}.pth", BODY)
    assert cli.main(["download", "FCOS_R_*_FPN_*", "no_such_entry", "--jobs", "3"]) == 1
    text = printed(capsys)
    assert f"{wanted[1]}: {folder / wanted[1]}.pth" in text
    assert f"{wanted[0]}: {wanted[0]}.pth could not be downloaded" in text
    assert "no entry 'no_such_entry' in the zoo" in text
    assert "2 of 3 entries could not be downloaded" in text
    mirror.add(f"{wanted[0]}.pth", BODY)
    assert cli.main(["download", *wanted]) == 0
    assert [path.stem for path in cache.files()] == wanted


def test_download_all_is_every_entry_whose_weights_are_served(
    monkeypatch: pytest.MonkeyPatch, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetched: list[str] = []
    monkeypatch.setattr(
        "tools.download.fetch_weights", lambda card, progress: fetched.append(card.name)
    )
    monkeypatch.setattr(zoo, "card", lambda name: types.SimpleNamespace(name=name))
    assert cli.main(["download", "--all"]) == 0
    assert sorted(fetched) == zoo.names(weights=True)
    assert cli.main(["download"]) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_an_interrupted_download_ends_at_once_and_is_resumed(
    mirror: FaultyServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = BODY * 4000
    resource = mirror.add(FILE, body, pause=0.3)  # 18 s in all, were it not interrupted
    command = subprocess.Popen(
        [sys.executable, "-m", "tools.cli", "download", SMALL],
        cwd=ROOT,
        # A job in a shell's background hands on that it ignores the signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    part = folder / f"{FILE}.part"
    while not (part.is_file() and part.stat().st_size > 0):
        assert command.poll() is None
        time.sleep(0.02)
    command.send_signal(signal.SIGINT)
    assert command.wait(timeout=20) == 130
    held = part.stat().st_size
    assert 0 < held < len(body)
    resource.pause = 0
    assert cli.main(["download", SMALL]) == 0
    assert resource.ranges == [None, f"bytes={held}-"]
    assert (folder / FILE).read_bytes() == body


def test_cache_shows_and_removes_files(
    published: bytes, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zoo.get(SMALL)
    (folder / "FCOS_R_50_1x.pth.part").write_bytes(bytes(10))
    (folder / "FCOS_R_50_1x.pth.hub").mkdir()
    (folder / "FCOS_R_50_1x.pth.hub" / "some").write_bytes(bytes(20))
    assert cli.main(["cache"]) == 0
    text = printed(capsys)
    for word in (FILE, "weights", "resumed", "20 bytes", "3 files"):
        assert word in text
    assert cli.main(["cache", "--remove", SMALL, "FCOS_R_50_1x.pth"]) == 0
    assert "MB freed" in printed(capsys)
    assert list(folder.glob("[!.]*")) == []
    assert cli.main(["cache", "--remove", SMALL]) == 1
    assert f"has no file of '{SMALL}'" in printed(capsys)


def test_verify_cache_repairs_damaged_files(
    published: bytes, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zoo.get(SMALL)
    assert cli.main(["verify-cache"]) == 0
    with (folder / FILE).open("r+b") as file:
        file.seek(-3, 2)
        file.write(b"bad")
    assert cli.main(["verify-cache", "--no-repair"]) == 1
    assert f"{FILE}: damaged" in printed(capsys)
    assert cli.main(["verify-cache"]) == 0
    text = printed(capsys)
    assert f"{FILE}: damaged, downloaded again" in text
    assert (folder / FILE).read_bytes() == published
    assert [path.name for path in cache.files()] == [FILE]
    assert not list(folder.glob("*.bad"))


def test_verify_cache_reports_what_it_cannot_repair(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.mkdir()
    (folder / "mine.pth").write_bytes(BODY)
    assert cli.main(["verify-cache"]) == 0
    assert "mine.pth: no hash is known" in printed(capsys)
    cache.record(folder / "mine.pth", "0" * 64)
    assert cli.main(["verify-cache"]) == 1
    assert "no entry of the zoo has a file of this name" in printed(capsys)


def test_verify_cache_compares_a_file_without_a_record_with_its_card(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FCOS_ZOO_OFFLINE", "1")
    folder.mkdir()
    name = "fcos_resnet50_fpn_coco-99b0c9b7.pth"
    (folder / name).write_bytes(BODY)
    assert cli.main(["verify-cache", "--no-repair"]) == 1
    assert f"{name}: damaged" in printed(capsys)
    assert (folder / name).exists()
    assert cli.main(["verify-cache"]) == 1
    assert f"{name}: damaged, {name} is not in the cache" in printed(capsys)
    assert (folder / f"{name}.bad").exists()


def test_verify_cache_repairs_imagenet_weights(
    mirror: FaultyServer, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "vovnet39_statedict_norm.pth"  # of configs/imagenet, with no hash stated
    mirror.add(name, BODY)
    path = fetch(name, imagenet.sources_of(name))
    with path.open("r+b") as file:
        file.write(b"\x80\x03")
    cache.record(path, hashlib.sha256(BODY).hexdigest())  # of a disk that changes no date
    assert cli.main(["verify-cache"]) == 0
    assert f"{name}: damaged, downloaded again" in printed(capsys)
    assert path.read_bytes() == BODY


def test_a_file_that_is_being_downloaded_is_neither_removed_nor_repaired(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.mkdir()
    (folder / "mine.pth").write_bytes(BODY)
    cache.record(folder / "mine.pth", "0" * 64)
    with cache.lock(folder / "mine.pth"):
        for command in (["cache", "--remove", "mine.pth"], ["verify-cache"]):
            assert cli.main(command) == 1
            assert "mine.pth is being downloaded" in printed(capsys)
    assert (folder / "mine.pth").exists()


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url())
        yield hub


def test_pin_writes_what_the_hub_states_and_keeps_the_rest(hub: HubServer, tmp_path: Path) -> None:
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
    copy = tmp_path / "entry" / "FCOS_RT_MS_R_50_4x.yaml"
    text = (registry.CONFIGS / "entry" / "FCOS_RT_MS_R_50_4x.yaml").read_text()
    copy.write_text(text)
    monkeypatch.setattr(pin, "entry_file", lambda name: tmp_path / "entry" / f"{name}.yaml")
    repo, _, file = zoo.card("FCOS_RT_MS_R_50_4x").weights[0].hub or ("", "", "")
    hub.store(f"{repo}/{file}", BODY)
    assert cli.main(["pin", "FCOS_RT_MS_R_50_4x"]) == 0
    live, dead = yaml.safe_load(copy.read_text())["weights"]
    assert live["sha256"] == hashlib.sha256(BODY).hexdigest()
    assert dead == {"url": zoo.card("FCOS_RT_MS_R_50_4x").weights[1].url, "dead": True} | {
        "note": "host switched off in 2023"
    }
    hub.files.clear()
    assert cli.main(["pin", "FCOS_RT_MS_R_50_4x"]) == 1
    assert "404" in printed(capsys)


def results(path: Path, digest: str) -> Path:
    """A results file with an AP of these weights and one of others."""
    facts = {
        "torch": "2.6",
        "torchvision": "0.21",
        "python": "3.11",
        "commit": "",
        "dirty": False,
        "code": "x",
    }
    facts |= {"gpu": "none", "cpu": "a CPU", "cores": 2}
    file = store.Store(path)
    for ap, weights in ((0.37, digest[:12]), (0.99, "0" * 12)):
        cell = Case(SMALL, "ap", weights=Weights("file", None, weights))
        outcome = Result("measured", {"AP": ap, "split": "val2017", "images": 5000})
        file.append(store.row_of(cell, outcome, facts, "fcos-zoo bench"))
    return path


def test_push_writes_a_file_that_loads_and_a_page_with_its_figures(
    published: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = results(tmp_path / "results.jsonl", hashlib.sha256(published).hexdigest())
    out = tmp_path / "out"
    arguments = ["push", SMALL, "hf://me/mine", "--results", str(measured), "--dry-run", str(out)]
    assert cli.main(arguments) == 0
    page = (out / "README.md").read_text()
    facts = yaml.safe_load(page.split("---")[1])
    assert (facts["license"], facts["pipeline_tag"]) == ("other", "object-detection")
    for text in ("| 37.0 |", "BSD-2-Clause for academic use", "@inproceedings{tian2019fcos"):
        assert text in page
    assert f'address = "hf://me/mine/{SMALL}.safetensors"' in page
    assert "99.0" not in page
    pushed, ours = zoo.get(SMALL, weights=out / f"{SMALL}.safetensors"), zoo.get(SMALL)
    for key, value in ours.state_dict().items():
        assert torch.equal(pushed.state_dict()[key], value)


def test_a_pushed_model_loads_from_the_hub(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    name, file = "FCOS_shapes_tiny", "FCOS_shapes_tiny.safetensors"
    image = torch.rand(3, 96, 128, generator=torch.Generator().manual_seed(0))
    (before,) = zoo.get(name)([image])
    assert len(before["boxes"]) > 9
    with HubServer() as hub:
        hub.token = "hf_secret"
        monkeypatch.setenv("HF_ENDPOINT", hub.url())
        assert cli.main(["push", name, "hf://me/mine"]) == 0
        assert sorted(hub.files) == [f"me/mine/{file}", "me/mine/README.md"]
        fresh = zoo.get(name, weights=f"hf://me/mine/{file}")
    out, err = capsys.readouterr()
    assert out == f"hf://me/mine: {file}, README.md\n"
    assert err == ""
    monkeypatch.setenv("FCOS_ZOO_OFFLINE", "1")
    for pushed in (fresh, zoo.get(name, weights=f"hf://me/mine/{file}")):
        (after,) = pushed([image])
        for key, value in before.items():
            assert torch.equal(after[key], value)


def test_push_that_the_hub_refuses_says_why(
    published: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with HubServer() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url())
        monkeypatch.setenv("HF_TOKEN", "hf_wrong")
        hub.token = "hf_secret"
        assert cli.main(["push", SMALL, "hf://me/mine"]) == 1
    assert "401" in printed(capsys)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://me/mine", "FCOS_ZOO_OFFLINE forbids the network"),
        ("me/mine", "write hf://owner/repository"),
    ],
)
def test_push_needs_the_network_and_an_address(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], address: str, message: str
) -> None:
    monkeypatch.setenv("FCOS_ZOO_OFFLINE", "1")
    assert cli.main(["push", SMALL, address]) == 1
    assert message in printed(capsys)
