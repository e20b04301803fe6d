"""Taking files out of a zip or tar archive: those that are wanted, into folders, all or none."""

from __future__ import annotations

import fnmatch
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from rich.filesize import decimal

BLOCK = 1 << 20

Update = Callable[[int, int], None]  # (bytes done, bytes in all)


@dataclass(frozen=True)
class Take:
    """The files of an archive whose path fits `pattern`: `files` of them, to go into a folder.

    Paths inside the archive end with their file's name; what folders they lie in there is of no
    consequence, so that no archive can write anywhere else.
    """

    pattern: str
    into: str
    files: int


@dataclass(frozen=True)
class Member:
    """One wanted file of an archive."""

    name: str
    into: str
    size: int
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, takes: Sequence[Take], root: Path, update: Update | None = None) -> None:
    """Put the wanted files of an archive under `root`.

    They are gathered in a hidden folder first, where an interrupted call goes on, and moved to
    their places when all of them are whole, in the order of `takes`.

    Args:
        archive: a zip or tar file, compressed or not.
        takes: what is wanted, and how much of it there must be.
        root: what `Take.into` starts from.
        update: told how far it is.

    Raises:
        ValueError: it is no whole archive, or does not hold what is wanted.
        OSError: the disk has not enough room.
    """
    staging = root / f".{archive.name}.part"
    with _members(archive, takes) as members:
        _check(archive, members, takes)
        places = [staging / member.into / member.name for member in members]
        held = [
            p.is_file() and p.stat().st_size == m.size for m, p in zip(members, places, strict=True)
        ]
        total = sum(member.size for member in members)
        done = sum(member.size for member, there in zip(members, held, strict=True) if there)
        check_room(root, total - done)
        for take in takes:
            (staging / take.into).mkdir(parents=True, exist_ok=True)
        for member, place, there in zip(members, places, held, strict=True):
            if not there:
                _write(member, place)
                done += member.size
                if update:
                    update(done, total)
    for into in dict.fromkeys(take.into for take in takes):
        _move(staging / into, root / into)
    shutil.rmtree(staging)


def check_room(folder: Path, needed: int) -> None:
    """Refuse to start what the disk has no room for."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise OSError(
            f"{folder} has room for {decimal(free)}, {decimal(needed)} are needed: free "
            "some, or choose a folder on another disk"
        )


@contextmanager
def _members(archive: Path, takes: Sequence[Take]) -> Iterator[list[Member]]:
    """The wanted members; what is wrong with the archive becomes one clear line."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                yield [
                    Member(name, into, info.file_size, partial(file.open, info))
                    for info in file.infolist()
                    if not info.is_dir()
                    for name, into in _wanted(info.filename, takes)
                ]
        else:
            with tarfile.open(archive) as tar:
                yield [
                    Member(name, into, info.size, partial(_extract, tar, info))
                    for info in tar
                    if info.isfile()  # no links, no devices
                    for name, into in _wanted(info.name, takes)
                ]
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        reason = str(error).splitlines()[0].rstrip(":")
        raise ValueError(
            f"{archive}: not a whole archive ({reason}); delete it and start again"
        ) from None


def _extract(tar: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    file = tar.extractfile(info)
    assert file is not None  # it is a regular file
    return file


def _wanted(path: str, takes: Sequence[Take]) -> Iterator[tuple[str, str]]:
    name = PurePosixPath(path).name
    if name in ("", "..") or any(sign in name for sign in "\\:\0"):
        return
    for take in takes:
        if fnmatch.fnmatchcase(path, take.pattern):
            yield name, take.into
            return


def _check(archive: Path, members: Sequence[Member], takes: Sequence[Take]) -> None:
    for into in dict.fromkeys(take.into for take in takes):
        names = [member.name for member in members if member.into == into]
        expected = sum(take.files for take in takes if take.into == into)
        if len(set(names)) != expected or len(names) != expected:
            raise ValueError(
                f"{archive}: holds {len(set(names)):,} files for {into}/ instead of {expected:,}: "
                "it is not the archive that was expected"
            )


def _write(member: Member, place: Path) -> None:
    part = place.with_name(f".{place.name}.part")
    with member.open() as source, part.open("wb") as file:
        shutil.copyfileobj(source, file, BLOCK)
    if part.stat().st_size != member.size:
        raise ValueError(f"{member.name}: the archive ends in the middle of it")
    os.replace(part, place)


def _move(source: Path, target: Path) -> None:
    """The folder to its place, or its files into the folder that is there."""
    if not source.is_dir():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        os.replace(source, target)
        return
    for file in sorted(source.iterdir()):
        os.replace(file, target / file.name)
