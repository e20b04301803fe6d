"""A file comes from the cache, or from the first source that serves all of it."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faulty_server as host
import pytest
from faulty_server import FaultyServer

from zoo import cache, https
from zoo.download import fetch, probe, progress_bars
from zoo.sources import FileSource, WeightsError

BODY = b"\x80\x02" + random.Random(2).randbytes(200_000)
OTHER = b"\x80\x02" + random.Random(3).randbytes(200_000)
SHA256 = hashlib.sha256(BODY).hexdigest()


def test_a_file_is_downloaded_once(server: FaultyServer) -> None:
    resource = server.add("w.pth", BODY)
    source = FileSource(server.url("w.pth"), size=len(BODY), sha256=SHA256)
    path = fetch("w.pth", [source])
    assert path == cache.folder() / "w.pth"
    assert fetch("w.pth", [source]) == path
    assert path.read_bytes() == BODY
    assert len(resource.asked) == 1
    assert (path.parent / "w.pth.sha256").read_text() == f"{SHA256}  w.pth\n"  # as of sha256sum


def test_the_cache_folder_can_be_chosen(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add("w.pth", BODY)
    monkeypatch.setenv("FCOS_ZOO_HOME", str(tmp_path / "elsewhere"))
    assert (
        fetch("w.pth", [FileSource(server.url("w.pth"))]).parent == tmp_path / "elsewhere/weights"
    )
    path = fetch("w.pth", [FileSource(server.url("w.pth"))], folder=tmp_path / "here")
    assert path == tmp_path / "here" / "w.pth"


def test_a_file_that_a_user_put_into_the_cache_is_used_if_it_matches(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(BODY)
    dead = FileSource("http://host.invalid/w.pth", dead=True)
    alive = FileSource("http://host.invalid/w.pth", sha256=SHA256[:10])
    assert fetch("w.pth", [dead, alive], folder=tmp_path) == tmp_path / "w.pth"
    assert cache.recorded(tmp_path / "w.pth") == SHA256


def test_a_wrong_file_in_the_cache_is_replaced(server: FaultyServer, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(OTHER)
    server.add("w.pth", BODY)
    path = fetch("w.pth", [FileSource(server.url("w.pth"), sha256=SHA256)], folder=tmp_path)
    assert path.read_bytes() == BODY
    assert (tmp_path / "w.pth.bad").read_bytes() == OTHER


@pytest.mark.parametrize("date", [1e9, 2e9], ids=["older", "younger"])
def test_a_cached_file_that_changed_since_it_arrived_is_replaced(
    server: FaultyServer, tmp_path: Path, date: float
) -> None:
    server.add("w.pth", BODY)
    source = FileSource(server.url("w.pth"))  # the only known hash is the recorded one
    path = fetch("w.pth", [source], folder=tmp_path)
    path.write_bytes(OTHER)
    os.utime(path, (date, date))
    assert fetch("w.pth", [source], folder=tmp_path).read_bytes() == BODY


def test_the_secrets_of_an_address_are_neither_shown_nor_written(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(https, "TRIES", 1)
    server.add("w.pth?signature=s3cret", BODY, host.drop(100_000), host.status(503))
    address = server.url("w.pth?signature=s3cret").replace("//", "//user:s3cret@")
    for _ in range(2):
        with pytest.raises(WeightsError, match="could not be downloaded") as refusal:
            fetch("w.pth", [FileSource(address)], folder=tmp_path)
        assert server.url("w.pth") in str(refusal.value)
        assert "s3cret" not in str(refusal.value)
        assert "s3cret" not in (tmp_path / "w.pth.part.json").read_text()
    assert fetch("w.pth", [FileSource(address)], folder=tmp_path).read_bytes() == BODY
    assert server.resources["w.pth?signature=s3cret"].ranges == [None] + ["bytes=100000-"] * 2


def test_sources_are_tried_in_order_and_dead_ones_never(
    server: FaultyServer, tmp_path: Path
) -> None:
    server.add("gone/w.pth", b"", host.status(404))
    dead = server.add("dead/w.pth", BODY)
    server.add("good/w.pth", BODY)
    last = server.add("last/w.pth", BODY)
    urls = {name: server.url(f"{name}/w.pth") for name in ("dead", "gone", "good", "last")}
    sources = [FileSource(url, dead=name == "dead") for name, url in urls.items()]
    assert fetch("w.pth", sources, folder=tmp_path).read_bytes() == BODY
    assert not dead.asked
    assert not last.asked


def test_dead_sources_are_listed(tmp_path: Path) -> None:
    dead = FileSource("http://host.invalid/w.pth", dead=True, note="host switched off in 2023")
    with pytest.raises(WeightsError, match=r"w.pth: dead, not tried \(host switched off in 2023\)"):
        fetch("w.pth", [dead], folder=tmp_path)


def test_an_unreachable_host_is_named(tmp_path: Path) -> None:
    with FaultyServer() as server:
        url = server.url("w.pth")
    with pytest.raises(WeightsError, match=f"{url}: no connection"):
        fetch("w.pth", [FileSource(url)], folder=tmp_path)


def test_mirrors_come_first(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "w.pth").write_bytes(OTHER)  # not the right file
    mirror = server.add("mirror/w.pth", BODY)
    published = server.add("w.pth", BODY)
    bases = f"{tmp_path / 'folder'}, {server.url('mirror/')}"
    monkeypatch.setenv("FCOS_ZOO_MIRRORS", bases)
    source = FileSource(server.url("w.pth"), sha256=SHA256)
    assert fetch("w.pth", [source], folder=tmp_path).read_bytes() == BODY
    assert len(mirror.asked) == 1
    assert not published.asked


def test_a_folder_serves_offline_and_the_network_does_not(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = server.add("w.pth", BODY)
    source = FileSource(server.url("w.pth"), sha256=SHA256)
    monkeypatch.setenv("FCOS_ZOO_OFFLINE", "1")
    with pytest.raises(WeightsError, match="Unset FCOS_ZOO_OFFLINE, put the file") as refused:
        fetch("w.pth", [source], folder=tmp_path)
    first = "w.pth is not in the cache, and FCOS_ZOO_OFFLINE forbids downloading it"
    assert str(refused.value).split("\n")[0] == first
    with pytest.raises(WeightsError, match="unset FCOS_ZOO_OFFLINE"):
        probe(source)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "w.pth").write_bytes(BODY)
    monkeypatch.setenv("FCOS_ZOO_MIRRORS", str(tmp_path / "folder"))
    path = fetch("w.pth", [source], folder=tmp_path)
    assert path.read_bytes() == BODY
    monkeypatch.delenv("FCOS_ZOO_MIRRORS")
    assert fetch("w.pth", [source], folder=tmp_path) == path  # of the cache
    assert not resource.asked


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        (b"<html></html>", "an HTML page"),
        (OTHER, "not that of the"),
    ],
)
def test_a_path_is_checked_like_a_host(tmp_path: Path, content: bytes | None, reason: str) -> None:
    source = tmp_path / "source.pth"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(WeightsError, match=reason):
        fetch("w.pth", [FileSource(str(source), sha256=SHA256)], folder=tmp_path / "cache")


def test_a_disk_without_room_is_reported_before_the_download(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add("w.pth", BODY)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 4, 5))
    with pytest.raises(WeightsError, match=r"w.pth needs 200,002 bytes, 5 are free"):
        fetch("w.pth", [FileSource(server.url("w.pth"))], folder=tmp_path)
    assert not (tmp_path / "w.pth.part").exists()


def test_a_disk_that_fills_up_is_reported(server: FaultyServer, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="no limits of file size on Windows")
    server.add("w.pth", BODY)
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, usual[1]))  # no file can be larger
    try:
        with pytest.raises(WeightsError, match=r"w.pth needs 200,002 bytes, [\d,]+ are"):
            fetch("w.pth", [FileSource(server.url("w.pth"))], folder=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert not (tmp_path / "w.pth").exists()


@pytest.mark.parametrize("occupied", ["cache", "cache/.w.pth.lock/x", "cache/w.pth.part/x"])
def test_a_cache_that_cannot_be_written_is_named(
    server: FaultyServer, tmp_path: Path, occupied: str
) -> None:
    server.add("w.pth", BODY)
    (tmp_path / occupied).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / occupied).write_text("in the way")
    with pytest.raises(WeightsError, match=r"cache cannot be written \(.*\): set FCOS_ZOO_HOME"):
        fetch("w.pth", [FileSource(server.url("w.pth"))], folder=tmp_path / "cache")


@pytest.mark.parametrize(
    "record",
    [
        *("\udcff", "[]", "{}", "null", '{"url": 1, "validator": 2, "size": 3}'),
        *(
            f'{{"url": "URL", "validator": {validator}, "size": {size}}}'
            for validator, size in [("3", 9), ('"a\\nb"', 9), ('"\u5199"', 9), ('"x"', '"9"')]
        ),
    ],
)
def test_an_unfinished_file_whose_record_is_damaged_is_started_over(
    server: FaultyServer, tmp_path: Path, record: str
) -> None:
    resource = server.add("w.pth", BODY)
    (tmp_path / "w.pth.part").write_bytes(b"\x80\x02wrong")
    text = record.replace("URL", server.url("w.pth"))
    (tmp_path / "w.pth.part.json").write_text(text, "utf-8", "surrogateescape")
    path = fetch("w.pth", [FileSource(server.url("w.pth"))], folder=tmp_path)
    assert path.read_bytes() == BODY
    assert resource.ranges == [None]


def test_progress_is_quiet_unless_asked_for(
    server: FaultyServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.add("w.pth", BODY)
    source = FileSource(server.url("w.pth"))
    fetch("w.pth", [source], folder=tmp_path / "a")
    assert capsys.readouterr() == ("", "")
    fetch("w.pth", [source], folder=tmp_path / "b", progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "w.pth" in err
    assert "200.0/200.0 kB" in err


def test_several_files_share_their_bars(server: FaultyServer, tmp_path: Path) -> None:
    with progress_bars(False) as bars, ThreadPoolExecutor(2) as pool:
        for name in ("a.pth", "b.pth"):
            server.add(name, BODY)
            source = FileSource(server.url(name))
            pool.submit(fetch, name, [source], folder=tmp_path, progress=bars)
    assert sorted(task.description for task in bars.tasks) == ["a.pth", "b.pth"]
    assert [(task.completed, task.total) for task in bars.tasks] == [(len(BODY), len(BODY))] * 2


@pytest.mark.parametrize("name", ["", "../w.pth", "a/b.pth", ".w.pth", "w.pth.part", "w.pth.lock"])
def test_only_plain_file_names_are_accepted(name: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot name a weights file"):
        fetch(name, [], folder=tmp_path)


def test_the_error_has_a_line_for_each_source_and_the_remedy(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(https, "TRIES", 2)
    server.add("a", BODY, host.status(403))
    server.add("b", BODY, host.status(500), host.drop(100_000), host.drop(0))
    sources = [FileSource(server.url(name), sha256=SHA256) for name in "ab"]
    with pytest.raises(WeightsError) as caught:
        fetch("w.pth", sources, folder=tmp_path)
    assert str(caught.value).split("\n") == [
        "w.pth could not be downloaded:",
        f"  {sources[0].url}: 403 Forbidden",
        f"  {sources[1].url}: connection dropped at 100000 of {len(BODY)} bytes; "
        "given up after 2 attempts",
        "  100000 bytes are kept: the next call resumes the download",
        f"Put the file at {tmp_path / 'w.pth'}, or set FCOS_ZOO_MIRRORS to a host that serves it.",
    ]


def test_probe_states_the_size_that_a_host_states(server: FaultyServer) -> None:
    server.add("w.pth", BODY)
    source = FileSource(server.url("w.pth"), sha256=SHA256)
    assert probe(source) == FileSource(source.url, size=len(BODY), sha256=SHA256)
    server.add("w.pth", b"<html></html>")
    with pytest.raises(WeightsError, match="sends an HTML page"):
        probe(source)
