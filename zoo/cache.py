"""The folder of downloaded weights, in which each file is beside its SHA-256.

``NAME.sha256`` is what ``sha256sum`` writes, so that ``sha256sum -c`` checks the folder too. It has
the modification time of ``NAME``, so that a file that replaces another does not inherit its hash.
``NAME.part`` with ``NAME.part.json`` is a download that can be resumed, ``NAME.hub`` the working
folder of huggingface_hub, ``NAME.bad`` a file that was refused.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from zoo.sources import FileSource, WeightsError

_SIDECARS = (".sha256", ".part", ".part.json", ".hub", ".bad")


def folder() -> Path:
    """Return ``weights`` in ``FCOS_ZOO_HOME``, by default in the platform's cache folder."""
    home = os.environ.get("FCOS_ZOO_HOME") or platformdirs.user_cache_dir("fcos-zoo")
    return Path(home).expanduser() / "weights"


def path_of(filename: str, at: Path | None = None) -> Path:
    """Return the path of a file in the cache, whether it exists or not.

    Raises:
        WeightsError: the name is a path, hidden, or reserved for the cache's own files.
    """
    reserved = filename.endswith((*_SIDECARS, ".lock")) or filename.startswith(".")
    if not filename or reserved or re.search(r'[/\\:*?"<>|\x00-\x1f]', filename):
        raise WeightsError(f"{filename!r} cannot name a weights file: give a plain file name")
    return (at or folder()) / filename


def sidecar(path: Path, suffix: str) -> Path:
    """Append a suffix: ``NAME.pth`` and ``".part"`` give ``NAME.pth.part``."""
    return path.with_name(path.name + suffix)


def files() -> list[Path]:
    """Return the complete files of the cache, sorted by name."""
    paths = sorted(path for path in folder().glob("*") if path.is_file())
    own = (*_SIDECARS, ".lock")
    return [path for path in paths if path.name[0] != "." and not path.name.endswith(own)]


def remove(name: str) -> int:
    """Remove a file and its sidecars; returns the number of bytes freed.

    Raises:
        WeightsError: it is being downloaded, or the folder cannot be written.
    """
    path = path_of(name)
    if not path.parent.is_dir():
        return 0
    paths = [path, *(sidecar(path, suffix) for suffix in _SIDECARS)]
    with locked(path):
        freed = sum(size_on_disk(each) for each in paths)
        for each in paths:
            if each.is_dir():
                shutil.rmtree(each, ignore_errors=True)
            else:
                each.unlink(missing_ok=True)
    return freed


def quarantine(path: Path) -> str:
    """Rename a wrong file to ``NAME.bad``; returns a clause that names the new path."""
    bad = sidecar(path, ".bad")
    with suppress(OSError):  # another process was faster, or the cache cannot be written
        os.replace(path, bad)
        sidecar(path, ".sha256").unlink(missing_ok=True)
    return f"remove {path}" if path.exists() else f"moved to {bad}"


@contextmanager
def locked(path: Path, waiting: Callable[[], object] | None = None) -> Iterator[None]:
    """Hold the lock that a process has while it writes this file of the cache.

    Args:
        path: the file.
        waiting: called before waiting for another process; None raises an error instead of waiting.

    Raises:
        WeightsError: another process is downloading the file, or the folder cannot be written.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0.5 if waiting else 0)
        except Timeout:
            if waiting is None:
                raise WeightsError(
                    f"{path.name} is being downloaded: wait for that, or stop it"
                ) from None
            waiting()
            lock.acquire()
        try:
            yield
        finally:
            lock.release()
    except OSError as error:
        raise WeightsError(
            f"{path.parent} cannot be written ({error.strerror or error}): set FCOS_ZOO_HOME to a "
            "folder that can"
        ) from error


def size_on_disk(path: Path) -> int:
    """Return the size of a file, or of all files in a folder; 0 where there is neither."""
    files = [each for each in (path, *path.rglob("*")) if each.is_file()]
    return sum(file.stat().st_size for file in files)


def sha256(path: Path) -> str:
    """Return the file's SHA-256 in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def recorded(path: Path) -> str | None:
    """Return the hash that was recorded when the file arrived, or None."""
    try:
        digest = sidecar(path, ".sha256").read_text("utf-8").split(" ")[0]
    except (OSError, UnicodeDecodeError):
        return None
    return digest if re.fullmatch("[0-9a-f]{64}", digest) else None


def known_sha256(path: Path) -> str:
    """Return the file's SHA-256, computed only if the file has changed since it was recorded."""
    digest = recorded(path)
    if digest and sidecar(path, ".sha256").stat().st_mtime_ns == path.stat().st_mtime_ns:
        return digest
    return sha256(path)


@contextmanager
def disk_space(part: Path, needed: int) -> Iterator[None]:
    """Raise a WeightsError of one line if the disk is full, or would become full."""
    try:
        if shutil.disk_usage(part.parent).free < needed:
            raise OSError(errno.ENOSPC, "foreseen")
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        free = shutil.disk_usage(part.parent).free
        raise WeightsError(
            f"the disk is full: {part.stem} needs {needed:,} bytes, {free:,} are free in "
            f"{part.parent}; free some space or set FCOS_ZOO_HOME to a folder on another disk"
        ) from error


def is_valid(path: Path, expected: Sequence[FileSource]) -> bool:
    """Whether the file exists and is the expected one; records the hash of a valid file."""
    if not (path.is_file() and matches(path, digest := known_sha256(path), expected)):
        return False
    with suppress(OSError):  # the cache may be read-only
        record(path, digest)
    return True


def matches(path: Path, digest: str, expected: Sequence[FileSource]) -> bool:
    """Whether a file with this SHA-256 is the expected one. Only this function decides it.

    If no source states a hash, the one recorded when the file arrived counts.
    """
    size = path.stat().st_size
    matching = [
        source
        for source in expected
        if source.size in (None, size) and digest.startswith(source.digest or "")
    ]
    hashed = any(source.digest for source in matching)
    return hashed or (bool(matching) and recorded(path) in (None, digest))


def commit(part: Path, path: Path, digest: str) -> None:
    """Give a finished file its final name, so that a crash leaves the whole file or none."""
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, path)
    record(path, digest)


def record(path: Path, digest: str) -> None:
    """Write the hash beside the file, unless it is there already."""
    beside, mtime = sidecar(path, ".sha256"), path.stat().st_mtime_ns
    if recorded(path) == digest and beside.stat().st_mtime_ns == mtime:
        return
    new = path.with_name(f".{path.name}.new")
    new.write_text(f"{digest}  {path.name}\n", "utf-8")
    with suppress(OSError):  # if it cannot be written, the file is hashed again each time
        os.utime(new, ns=(mtime, mtime))
    os.replace(new, beside)
