"""The folder of whole files, each beside its hash."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from zoo.weights import Location, WeightsError, cache, fetch


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cache with two files."""
    for name, content in (("a.pth", b"\x80\x02a"), ("b.safetensors", b"\x80\x02bb")):
        (tmp_path / name).write_bytes(content)
        fetch(name, [Location(str(tmp_path / name))], cache=tmp_path / "cache")
    return tmp_path / "cache"


def test_entries_are_the_whole_files(folder: Path) -> None:
    (folder / "c.pth.part").write_bytes(b"half")
    (folder / "d.pth.bad").write_bytes(b"bad")
    first, second = cache.entries(folder)
    assert (first.path, first.size) == (folder / "a.pth", 3)
    assert second.sha256 == hashlib.sha256(b"\x80\x02bb").hexdigest()
    assert cache.entries(folder / "absent") == []


def test_verify_hashes_anew_and_changes_nothing(folder: Path) -> None:
    (folder / "a.pth").write_bytes(b"\x80\x02A")
    (folder / "mine.pth").write_bytes(b"\x80\x02")
    before = sorted(folder.iterdir())
    report = cache.verify(folder)
    assert report.good == (folder / "b.safetensors",)
    assert report.bad == (folder / "a.pth",)
    assert report.unrecorded == (folder / "mine.pth",)
    assert sorted(folder.iterdir()) == before


def test_the_records_are_what_sha256sum_reads(folder: Path) -> None:
    record = (folder / "a.pth.sha256").read_text()
    assert record == hashlib.sha256(b"\x80\x02a").hexdigest() + "  a.pth\n"


def test_remove_takes_all_that_is_beside_a_file(folder: Path) -> None:
    (folder / "a.pth.bad").write_bytes(b"bad")
    assert cache.remove("a.pth", folder) == 3 + len("  a.pth\n") + 64 + 3
    assert [path.name for path in folder.iterdir() if path.name.startswith("a")] == []
    assert cache.remove("a.pth", folder) == 0
    with pytest.raises(WeightsError, match="is no name"):
        cache.remove("../a.pth", folder)


def test_commit_replaces_and_records(folder: Path) -> None:
    part = folder / "a.pth.part"
    part.write_bytes(b"\x80\x02new")
    path = cache.commit(part, folder / "a.pth")
    assert path.read_bytes() == b"\x80\x02new"
    assert not part.exists()
    assert cache.verify(folder).bad == ()
