"""``hf://`` sources: downloaded by huggingface_hub, verified and kept in our own cache."""

from __future__ import annotations

import hashlib
import logging
import random
import time
from pathlib import Path

import faulty_server as host
import pytest
from hub_server import COMMIT, HubServer
from huggingface_hub import constants, hf_hub_download

from zoo.download import fetch, probe
from zoo.sources import FileSource, WeightsError

BODY = b"\x80\x02" + random.Random(6).randbytes(300_000)
OTHER = b"\x80\x02" + random.Random(7).randbytes(300_000)
SHA256 = hashlib.sha256(BODY).hexdigest()
SOURCE = FileSource("hf://owner/name/w.pth")


@pytest.fixture
def hub(hub: HubServer) -> HubServer:
    """A Hub that has one file."""
    hub.store("owner/name/w.pth", BODY)
    return hub


@pytest.fixture
def cached(hub: HubServer, tmp_path: Path) -> Path:
    """The file in huggingface_hub's own cache, where another program put it."""
    path = hf_hub_download("owner/name", "w.pth", endpoint=hub.url().rstrip("/"))
    hub.asked.clear()
    return Path(path).resolve()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_a_file_is_downloaded_once(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = fetch("w.pth", [SOURCE], folder=tmp_path / "ours", progress=True)
    assert path.read_bytes() == BODY
    assert "300.0/300.0 kB" in capsys.readouterr().err
    assert names(tmp_path / "ours") == ["w.pth", "w.pth.sha256"]
    assert not (tmp_path / "home" / "hub").exists()
    hub.asked.clear()
    assert fetch("w.pth", [SOURCE], folder=tmp_path / "ours") == path
    assert hub.asked == []


def test_probe_states_commit_size_and_hash(hub: HubServer) -> None:
    pinned = f"hf://owner/name@{COMMIT}/w.pth"
    assert probe(SOURCE) == FileSource(pinned, size=len(BODY), sha256=SHA256)
    tagged = FileSource("hf://owner/name@v1/w.pth")
    assert probe(tagged) == FileSource(tagged.url, size=len(BODY), sha256=SHA256)
    with pytest.raises(WeightsError, match=r"missing\.pth"):
        probe(FileSource("hf://owner/name/missing.pth"))


def test_wrong_bytes_from_the_hub_are_refused(hub: HubServer, tmp_path: Path) -> None:
    hub.store("owner/name/w.pth", BODY, host.wrong_bytes)
    with pytest.raises(WeightsError, match="not that of the expected file"):
        fetch("w.pth", [FileSource(SOURCE.url, sha256=SHA256)], folder=tmp_path / "ours")
    assert names(tmp_path / "ours") == ["w.pth.bad"]


def test_another_file_than_the_card_states_is_refused(hub: HubServer, tmp_path: Path) -> None:
    for other in (FileSource(SOURCE.url, sha256="0" * 8), FileSource(SOURCE.url, size=5)):
        with pytest.raises(WeightsError, match=f"sha256 {SHA256} is not that of the expected"):
            fetch("w.pth", [other], folder=tmp_path / "ours")


def test_why_the_hub_cannot_be_reached_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between its retries
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "propagate", True)
    with pytest.raises(WeightsError, match=r"hf://owner/name/w\.pth: .*Connection refused\n"):
        fetch("w.pth", [SOURCE], folder=tmp_path)
    assert caplog.messages == []


def test_the_token_is_sent_to_the_hub_and_to_nobody_else(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token = "hf_secret"
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(WeightsError, match=r"w.pth: .*401"):
        fetch("w.pth", [SOURCE], folder=tmp_path / "ours")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with pytest.raises(WeightsError, match=r"missing.pth: .*404"):
        fetch("w.pth", [FileSource("hf://owner/name/missing.pth")], folder=tmp_path / "ours")
    assert fetch("w.pth", [SOURCE], folder=tmp_path / "ours").read_bytes() == BODY
    hub.asked.clear()
    hub.add("elsewhere.pth", BODY)
    fetch("elsewhere.pth", [FileSource(hub.url("elsewhere.pth"))], folder=tmp_path / "ours")
    assert hub.asked == [("GET", "/elsewhere.pth", None)]


def test_the_copy_in_the_hubs_cache_is_linked(
    cached: Path, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FCOS_ZOO_OFFLINE", "1")
    path = fetch("w.pth", [SOURCE], folder=tmp_path / "ours")
    assert path.samefile(cached)  # on the disk once
    assert hub.asked == []
    path.unlink()
    assert cached.read_bytes() == BODY


def test_the_copy_in_the_hubs_cache_is_verified(
    cached: Path, hub: HubServer, tmp_path: Path
) -> None:
    cached.write_bytes(OTHER)
    with pytest.raises(WeightsError, match="not that of the expected file"):
        fetch("w.pth", [FileSource(str(cached), sha256=SHA256)], folder=tmp_path / "ours")


def test_a_link_left_by_a_killed_process_is_not_written_through(
    cached: Path, hub: HubServer, tmp_path: Path
) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "w.pth.part").hardlink_to(cached)
    hub.add("w.pth", OTHER)
    fetch("w.pth", [FileSource(hub.url("w.pth"))], folder=tmp_path / "ours")
    assert cached.read_bytes() == BODY
