"""Taking the wanted files out of archives: all or none, nowhere else, resumed."""

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from fcos.data import unpack as module
from fcos.data.unpack import Take, check_room, unpack

IMAGES = Take("*.jpg", "train", 3)


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return path


def tarred(path: Path, files: dict[str, bytes], *others: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as file:
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


@pytest.mark.parametrize(
    ("pack", "name"), [(zipped, "a.zip"), (tarred, "a.tar"), (tarred, "a.tgz")]
)
def test_wanted_files_come_out_whole_and_nothing_else(tmp_path, pack, name):
    archive = pack(tmp_path / name, {**FILES, "train2017/readme.txt": b"no"})
    told = []
    unpack(archive, [IMAGES], tmp_path / "root", lambda *numbers: told.append(numbers))
    expected = {f"train/{Path(path).name}": body for path, body in FILES.items()}
    assert content(tmp_path / "root") == expected
    assert told[-1] == (3003, 3003)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_no_archive_writes_elsewhere(tmp_path):
    link = tarfile.TarInfo("train2017/link.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    evil = {"../../0.jpg": b"zero", "/tmp/1.jpg": b"one", "train2017/../2.jpg": b"two", "..": b""}
    archive = tarred(tmp_path / "evil.tar", evil, link)
    unpack(archive, [IMAGES], tmp_path / "root")
    assert content(tmp_path) == {
        "evil.tar": archive.read_bytes(),
        "root/train/0.jpg": b"zero",
        "root/train/1.jpg": b"one",
        "root/train/2.jpg": b"two",
    }


def test_two_files_of_one_name_are_refused(tmp_path):
    archive = zipped(tmp_path / "a.zip", {**FILES, "other/0.jpg": b"0"})
    with pytest.raises(ValueError, match=r"a\.zip: holds 3 files for train/ instead of 3"):
        unpack(archive, [IMAGES], tmp_path)


def test_an_archive_of_something_else_leaves_nothing(tmp_path):
    archive = zipped(tmp_path / "a.zip", {"cats.zip": b"meow"})
    with pytest.raises(ValueError, match=r"holds 0 files for train/ instead of 3"):
        unpack(archive, [IMAGES], tmp_path / "root")
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(
    ("pack", "name"), [(zipped, "a.zip"), (tarred, "a.tar"), (tarred, "a.tgz")]
)
def test_a_cut_archive_is_refused_and_no_file_of_it_used(tmp_path, pack, name):
    archive = pack(tmp_path / name, FILES)
    archive.write_bytes(archive.read_bytes()[:1500])
    with pytest.raises(ValueError, match=rf"{name}: .*(not a whole archive|instead of 3)"):
        unpack(archive, [IMAGES], tmp_path / "root")
    assert not (tmp_path / "root" / "train").exists()


def test_damage_inside_is_noticed(tmp_path):
    archive = zipped(tmp_path / "a.zip", FILES)
    damaged = bytearray(archive.read_bytes())
    damaged[500] ^= 1
    archive.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"a\.zip: not a whole archive"):
        unpack(archive, [IMAGES], tmp_path / "root")


def test_interrupted_it_goes_on_and_nothing_is_visible_before_the_end(tmp_path, monkeypatch):
    archive = zipped(tmp_path / "a.zip", FILES)
    written = []

    def interrupted(member, place):
        if len(written) == 2:
            place.with_name(f".{place.name}.part").write_bytes(b"half")
            raise KeyboardInterrupt
        written.append(member.name)
        write(member, place)

    write = module._write
    monkeypatch.setattr(module, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        unpack(archive, [IMAGES], tmp_path / "root")
    assert not (tmp_path / "root" / "train").exists()
    monkeypatch.setattr(module, "_write", lambda m, p: (written.append(m.name), write(m, p)))
    unpack(archive, [IMAGES], tmp_path / "root")
    assert written == ["0.jpg", "1.jpg", "2.jpg"]
    assert len(content(tmp_path / "root")) == 3


def test_files_join_those_that_are_there(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "0.jpg").write_bytes(b"damaged")
    (tmp_path / "train" / "mine.txt").write_bytes(b"mine")
    unpack(zipped(tmp_path / "a.zip", FILES), [IMAGES], tmp_path)
    assert (tmp_path / "train" / "0.jpg").read_bytes() == FILES["train2017/0.jpg"]
    assert (tmp_path / "train" / "mine.txt").read_bytes() == b"mine"
    assert not (tmp_path / ".a.zip.part").exists()


def test_a_full_disk_is_foreseen(tmp_path):
    check_room(tmp_path / "not" / "yet", 1)
    with pytest.raises(OSError, match=r"not/yet has room for .*, 1\.0 EB are needed"):
        check_room(tmp_path / "not" / "yet", 10**18)
