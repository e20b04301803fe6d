"""The commands that download weights, and that show and check the cache."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch
from mirrors import FaultyServer, saved

import zoo
from tools import cli
from zoo import cache, initial_weights
from zoo.download import fetch

SMALL = "FCOS_syncbn_bs32_c128_MNV2_FPN_1x"
FILE = f"{SMALL}.pth"
ROOT = Path(cli.__file__).parent.parent
BODY = b"\x80\x02" + bytes(1000)  # its first bytes are those of a pickle


@pytest.fixture
def folder(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of `fcos-zoo`, whose tables are not folded."""
    monkeypatch.setenv("COLUMNS", "200")
    return cache


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


def test_verify_cache_reports_files_that_it_cannot_repair(
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
    path = fetch(name, initial_weights.sources_of(name))
    with path.open("r+b") as file:
        file.write(b"\x80\x03")
    cache.record(path, hashlib.sha256(BODY).hexdigest())  # of a disk that changes no date
    assert cli.main(["verify-cache"]) == 0
    assert f"{name}: damaged, downloaded again" in printed(capsys)
    assert path.read_bytes() == BODY


def test_a_file_being_downloaded_is_neither_removed_nor_repaired(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.mkdir()
    (folder / "mine.pth").write_bytes(BODY)
    cache.record(folder / "mine.pth", "0" * 64)
    with cache.locked(folder / "mine.pth"):
        for command in (["cache", "--remove", "mine.pth"], ["verify-cache"]):
            assert cli.main(command) == 1
            assert "mine.pth is being downloaded" in printed(capsys)
    assert (folder / "mine.pth").exists()
