"""Unpacking the wanted files of archives: all or none, and nowhere else."""

import io
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from fcos.data.download import ExtractRule, unpack

IMAGES = ExtractRule("*.jpg", "train", 3)


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    method = zipfile.ZIP_LZMA if path.stem == "lzma" else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return path


def tarred(path: Path, files: dict[str, bytes], *others: tarfile.TarInfo) -> Path:
    mode: Any = {".tgz": "w:gz", ".xz": "w:xz", ".tar": "w"}[path.suffix]
    with tarfile.open(path, mode) as file:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
        for info in others:
            file.addfile(info)
    return path


FILES = {f"train2017/{n}.jpg": os.urandom(1000 + n) for n in range(3)}


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


ARCHIVES = pytest.mark.parametrize(
    ("pack", "name"),
    [
        *((zipped, name) for name in ("a.zip", "lzma.zip")),
        *((tarred, name) for name in ("a.tar", "a.tgz", "a.tar.xz")),
    ],
)


@ARCHIVES
def test_wanted_files_come_out_whole_and_nothing_else(tmp_path, pack, name):
    archive = pack(tmp_path / name, {**FILES, "train2017/readme.txt": b"no"})
    calls = []
    unpack(archive, [IMAGES], tmp_path / "root", lambda *numbers: calls.append(numbers))
    expected = {f"train/{Path(path).name}": body for path, body in FILES.items()}
    assert content(tmp_path / "root") == expected
    assert calls[-1] == (3003, 3003)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


@pytest.mark.parametrize("name", ["../../0.jpg", "train2017/../../0.jpg"])
def test_no_archive_writes_elsewhere(tmp_path, name):
    evil = {name: b"zero", "/tmp/1.jpg": b"one", "train2017/2.jpg": b"two", "..": b""}
    link = tarfile.TarInfo("train2017/link.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with pytest.raises(ValueError, match=r"evil\.tar: damaged \(.*outside the destination"):
        unpack(tarred(tmp_path / "evil.tar", evil, link), [IMAGES], tmp_path / "tar")
    assert not (tmp_path / "tar" / "train").exists()
    unpack(zipped(tmp_path / "evil.zip", evil), [IMAGES], tmp_path / "zip")
    assert content(tmp_path / "zip") == {
        "train/0.jpg": b"zero",
        "train/1.jpg": b"one",
        "train/2.jpg": b"two",
    }


@pytest.mark.parametrize(
    ("files", "number"), [({"cats.zip": b"meow"}, 0), ({**FILES, "other/0.jpg": b"0"}, 4)]
)
def test_an_archive_of_other_files_leaves_nothing(tmp_path, files, number):
    archive = zipped(tmp_path / "a.zip", files)
    with pytest.raises(ValueError, match=rf"a\.zip: holds {number} files for train/ instead of 3"):
        unpack(archive, [IMAGES], tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_absolute_paths_and_links_of_a_tar_stay_inside(tmp_path):
    link = tarfile.TarInfo("train2017/link.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    outside = tmp_path / "out" / "0.jpg"
    outside.parent.mkdir()
    outside.write_bytes(b"mine")
    files = {f"{tmp_path}/out/{n}.jpg": b"new" for n in range(3)}
    unpack(tarred(tmp_path / "a.tar", files, link), [IMAGES], tmp_path / "root")
    assert outside.read_bytes() == b"mine"
    assert set(content(tmp_path / "root")) == {f"train/{n}.jpg" for n in range(3)}


@ARCHIVES
def test_a_cut_archive_is_refused_and_no_file_of_it_used(tmp_path, pack, name):
    archive = pack(tmp_path / name, FILES)
    archive.write_bytes(archive.read_bytes()[:1500])
    with pytest.raises(ValueError, match=rf"{name}: .*(damaged|instead of 3)"):
        unpack(archive, [IMAGES], tmp_path / "root")
    assert not (tmp_path / "root" / "train").exists()


@pytest.mark.parametrize(
    ("pack", "name"), [(zipped, "a.zip"), (zipped, "lzma.zip"), (tarred, "a.tar.xz")]
)
def test_damage_inside_is_noticed(tmp_path, pack, name):
    archive = pack(tmp_path / name, FILES)
    damaged = bytearray(archive.read_bytes())
    damaged[500] ^= 1
    archive.write_bytes(damaged)
    with pytest.raises(ValueError, match=rf"{name}: damaged [^\n]*$"):
        unpack(archive, [IMAGES], tmp_path / "root")


def test_a_wrong_gzip_checksum_is_refused(tmp_path):
    archive = tarred(tmp_path / "a.tgz", FILES)
    archive.write_bytes(archive.read_bytes()[:-8] + bytes(8))
    with pytest.raises(ValueError, match=r"a\.tgz: damaged \(CRC check failed"):
        unpack(archive, [IMAGES], tmp_path / "root")
    assert not (tmp_path / "root" / "train").exists()


def test_an_encrypted_archive_is_refused_in_one_line(tmp_path):
    archive = zipped(tmp_path / "a.zip", FILES)
    data = bytearray(archive.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        position = data.find(signature)
        while position >= 0:
            data[position + flags] |= 1
            position = data.find(signature, position + 1)
    archive.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.zip: damaged \(.*encrypted"):
        unpack(archive, [IMAGES], tmp_path / "root")


def test_files_are_added_to_existing_ones_and_leftovers_removed(tmp_path):
    for name in ("train/0.jpg", "train/mine.txt", ".a.zip.part/0/train2017/4.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"mine")
    unpack(zipped(tmp_path / "a.zip", FILES), [IMAGES], tmp_path)
    assert (tmp_path / "train" / "0.jpg").read_bytes() == FILES["train2017/0.jpg"]
    assert sorted(os.listdir(tmp_path / "train")) == ["0.jpg", "1.jpg", "2.jpg", "mine.txt"]
    assert not (tmp_path / ".a.zip.part").exists()
