"""The folder where whole, verified weights files are kept, each beside its hash.

``NAME.sha256`` holds the hash of ``NAME`` as ``sha256sum`` writes it, so that ``sha256sum -c``
checks the folder too; its modification time is the file's, so that a file put in the place of
another, however old, is not taken for it. ``NAME.part`` and ``NAME.part.json`` are a transfer that
can be resumed, ``NAME.hub`` is the folder of one by the Hub's client, which cannot; ``NAME.bad`` is
a file that did not fit; none of them counts as an entry.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from zoo.weights.errors import WeightsError
from zoo.weights.location import Location

_BESIDE = (".sha256", ".part", ".part.json", ".hub", ".bad")


@dataclass(frozen=True)
class Entry:
    """A file of the cache; ``sha256`` as recorded when it arrived, or None."""

    path: Path
    size: int
    sha256: str | None


def folder() -> Path:
    """``weights`` in ``FCOS_ZOO_HOME``, or else in the platform's cache folder."""
    home = os.environ.get("FCOS_ZOO_HOME") or platformdirs.user_cache_dir("fcos-zoo")
    return Path(home).expanduser() / "weights"


def beside(path: Path, suffix: str) -> Path:
    """``NAME.pth`` and ``".part"`` to ``NAME.pth.part``."""
    return path.with_name(path.name + suffix)


def place(filename: str, cache: Path | None = None) -> Path:
    """The path of a file in the cache, there or not.

    Raises:
        WeightsError: the name is a path, hidden, or one that the cache gives to its own files.
    """
    taken = filename.endswith((*_BESIDE, ".lock")) or filename.startswith(".")
    if not filename or taken or re.search(r'[/\\:*?"<>|\x00-\x1f]', filename):
        raise WeightsError(f"{filename!r} is no name for a weights file: give a plain file name")
    return (cache or folder()) / filename


def entries(cache: Path | None = None) -> list[Entry]:
    """The whole files of the cache, by name."""
    at = cache or folder()
    names = sorted(path for path in at.iterdir() if path.is_file()) if at.is_dir() else []
    return [
        Entry(path, path.stat().st_size, recorded(path))
        for path in names
        if not path.name.startswith(".") and not path.name.endswith((*_BESIDE, ".lock"))
    ]


def remove(name: str, cache: Path | None = None) -> int:
    """Removes a file and all that is kept beside it; returns the number of bytes freed.

    Raises:
        WeightsError: it is being fetched.
    """
    path = place(name, cache)
    held = [path, *(beside(path, suffix) for suffix in _BESIDE)]
    freed = sum(held_bytes(each) for each in held)
    if not path.parent.is_dir():
        return freed
    with unused(path):
        for each in held:
            if each.is_dir():
                shutil.rmtree(each, ignore_errors=True)
            else:
                each.unlink(missing_ok=True)
    return freed


def lock(path: Path) -> FileLock:
    """What whoever writes a file of the cache holds meanwhile."""
    return FileLock(path.with_name(f".{path.name}.lock"))


@contextmanager
def unused(path: Path) -> Iterator[None]:
    """Keeps others from fetching a file meanwhile.

    Raises:
        WeightsError: somebody is fetching it.
    """
    try:
        held = lock(path).acquire(timeout=0)
    except Timeout:
        raise WeightsError(f"{path.name} is being fetched: wait for it, or stop that") from None
    with held:
        yield


def held_bytes(path: Path) -> int:
    """The length of a file, or of all files in a folder; 0 where there is neither."""
    files = [each for each in (path, *path.rglob("*")) if each.is_file()]
    return sum(file.stat().st_size for file in files)


def sha256(path: Path) -> str:
    """The file's SHA-256 in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def recorded(path: Path) -> str | None:
    """The hash written down when the file arrived, or None."""
    try:
        digest = beside(path, ".sha256").read_text("utf-8").split(" ")[0]
    except (OSError, UnicodeDecodeError):
        return None
    return digest if re.fullmatch("[0-9a-f]{64}", digest) else None


def known_sha256(path: Path) -> str:
    """The file's SHA-256: its record's, or else hashed, once in a process as long as it stays."""
    status = path.stat()
    if (on_record := recorded(path)) and _is_of(beside(path, ".sha256"), status):
        return on_record
    return _hashed(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def whole(path: Path, promised: Sequence[Location]) -> bool:
    """Whether the file is there and :func:`fits`; a good one is recorded, if the folder allows."""
    if not path.is_file():
        return False
    digest = known_sha256(path)
    good = fits(path, promised, digest)
    if good and not (recorded(path) and _is_of(beside(path, ".sha256"), path.stat())):
        with suppress(OSError):
            record(path, digest)
    return good


def fits(path: Path, promised: Sequence[Location], digest: str) -> bool:
    """Whether a file of this SHA-256 fits a promise and, where none states a hash, its record."""
    size = path.stat().st_size
    fitting = [location for location in promised if location.fits(size, digest)]
    hashed = any(location.digest for location in fitting)
    return hashed or (bool(fitting) and recorded(path) in (None, digest))


def commit(part: Path, path: Path, digest: str | None = None) -> Path:
    """Gives a finished file its final name, so that a crash leaves the whole file or none."""
    digest = digest or sha256(part)
    _sync(part)
    os.replace(part, path)
    with suppress(OSError):  # not every file system syncs folders
        _sync(path.parent)
    record(path, digest)
    return path


def record(path: Path, digest: str) -> None:
    """Writes the hash down beside the file."""
    write(beside(path, ".sha256"), f"{digest}  {path.name}\n", path.stat().st_mtime_ns)


def write(path: Path, text: str, mtime_ns: int | None = None) -> None:
    """Replaces a small text file in one step, with a modification time if one is given."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text, "utf-8")
    if mtime_ns is not None:
        with suppress(OSError):  # where it is refused, the file is hashed anew instead
            os.utime(fresh, ns=(mtime_ns, mtime_ns))
    os.replace(fresh, path)


@functools.lru_cache(maxsize=64)
def _hashed(path: Path, *state: int) -> str:
    return sha256(path)


def _is_of(record: Path, status: os.stat_result) -> bool:
    return record.stat().st_mtime_ns == status.st_mtime_ns


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows opens no folders
        return
    handle = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
