"""The folder of complete files, each beside its hash."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from zoo import cache
from zoo.download import fetch
from zoo.sources import FileSource, WeightsError

SHA256 = hashlib.sha256(b"\x80\x02a").hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cache with two files."""
    for name, content in (("a.pth", b"\x80\x02a"), ("b.safetensors", b"\x80\x02bb")):
        (tmp_path / name).write_bytes(content)
        fetch(name, [FileSource(str(tmp_path / name))])
    return cache.folder()


def test_files_are_the_complete_ones(folder: Path) -> None:
    (folder / "c.pth.part").write_bytes(b"half")
    (folder / "d.pth.bad").write_bytes(b"bad")
    assert cache.files() == [folder / "a.pth", folder / "b.safetensors"]


def test_records_are_in_the_format_of_sha256sum(folder: Path) -> None:
    record = (folder / "a.pth.sha256").read_text()
    assert record == SHA256 + "  a.pth\n"


def test_remove_removes_the_sidecars_too(folder: Path) -> None:
    (folder / "a.pth.bad").write_bytes(b"bad")
    assert cache.remove("a.pth") == 3 + len("  a.pth\n") + 64 + 3
    assert [path.name for path in folder.iterdir() if path.name.startswith("a")] == []
    assert cache.remove("a.pth") == 0
    with pytest.raises(WeightsError, match="cannot name"):
        cache.remove("../a.pth")
