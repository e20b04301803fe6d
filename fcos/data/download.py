"""Published datasets: find missing archives, unpack them, and check the images."""

from __future__ import annotations

import fnmatch
import hashlib
import lzma
import os
import shutil
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from pydantic import TypeAdapter
from rich.filesize import decimal

from fcos.data.annotations import load_annotations
from fcos.data.image_files import existing_images
from fcos.data.registry import MINIVAL, check_is_minival, resolve_dataset

BLOCK = 1 << 20
BROKEN = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError),
    *(EOFError, RuntimeError, OSError),  # truncated, encrypted, wrong gzip checksum
)

Progress = Callable[[int, int], None]  # (bytes done, total bytes)


@dataclass(frozen=True)
class ExtractRule:
    """Files of an archive to extract: the `count` whose paths match `pattern`, into `folder`."""

    pattern: str
    folder: str
    count: int


@dataclass(frozen=True)
class Archive:
    """An archive's address, the files to extract, and its size and hashes, if published."""

    url: str
    extract: tuple[ExtractRule, ...]
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None

    @property
    def name(self) -> str:
        return PurePosixPath(self.url).name


@dataclass(frozen=True)
class DatasetSpec:
    """A published dataset: its archives, and the number of images of its splits.

    `splits` are names of `fcos.data.registry.NAMED_DATASETS`, those to train on first.
    """

    name: str
    archives: tuple[Archive, ...]
    splits: dict[str, int]


def read_spec(path: Path) -> DatasetSpec:
    """Read a dataset from a file of `configs/dataset`, whose name it has."""
    content = yaml.safe_load(path.read_text())
    return TypeAdapter(DatasetSpec).validate_python({"name": path.stem, **content})


def missing_archives(dataset: DatasetSpec, root: Path) -> list[Archive]:
    """Return the archives whose files are not all under `root`, judged by their number."""
    listings: dict[str, list[str]] = {}
    wanted: Counter[tuple[str, str]] = Counter()
    missing = []
    for archive in dataset.archives:
        complete = True
        for rule in archive.extract:
            folder = root / rule.folder
            if rule.folder not in listings:
                listings[rule.folder] = os.listdir(folder) if folder.is_dir() else []
            pattern = PurePosixPath(rule.pattern).name
            wanted[rule.folder, pattern] += rule.count
            present = len(fnmatch.filter(listings[rule.folder], pattern))
            complete &= present >= wanted[rule.folder, pattern]
        if not complete:
            missing.append(archive)
    return missing


def required_bytes(archives: Sequence[Archive], keep: bool) -> int:
    """Return the disk space to download and unpack archives, in which images are not compressed."""
    sizes = [archive.size or 0 for archive in archives]
    return sum(sizes) + (sum(sizes) if keep else max(sizes, default=0))


def check_disk_space(folder: Path, needed: int) -> None:
    """Raise an OSError if the disk of a folder, which need not exist, has less space."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise OSError(
            f"{folder} has {decimal(free)} of free space, {decimal(needed)} are needed: free some, "
            "or choose a folder on another disk"
        )


def check_md5(path: Path, archive: Archive) -> None:
    """Delete a downloaded archive that has another MD5 than the published one.

    Archives with a published SHA-256 are not read again, as the download has checked it.

    Raises:
        ValueError: the MD5 differs; the file is deleted.
    """
    if archive.sha256 or not archive.md5:
        return
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    if digest.hexdigest() != archive.md5:
        path.unlink()
        raise ValueError(f"{path.name}: its MD5 is not {archive.md5}; it was deleted, try again")


def remove_archive(archive: Archive, root: Path) -> None:
    """Delete a downloaded archive and the download's other files beside it."""
    folder = root / "archives"
    for path in folder.glob(f"*{archive.name}*"):
        path.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def verify_dataset(dataset: DatasetSpec, root: Path) -> dict[str, tuple[int, int, int]]:
    """Check that every image of each split is there.

    Returns:
        The number of images, objects and classes of each split.

    Raises:
        ValueError: a split has another number of images, or is not minival.
        ImageError: images are missing.
    """
    numbers: dict[str, tuple[int, int, int]] = {}
    training: list[Mapping[str, Any]] = []
    for split, expected in dataset.splits.items():
        contents = []
        for source in resolve_dataset(split, root):
            content = load_annotations(source.annotations)
            existing_images(content["images"], source.image_dir)
            contents.append(content)
        images = sum(len(content["images"]) for content in contents)
        if images != expected:
            raise ValueError(f"{split} under {root} has {images:,} images, not {expected:,}")
        if split in MINIVAL:
            check_is_minival(contents[0], training)
        training += contents
        objects = sum(len(content["annotations"]) for content in contents)
        numbers[split] = (images, objects, len(contents[0]["categories"]))
    return numbers


def unpack(
    archive: Path, rules: Sequence[ExtractRule], root: Path, progress: Progress | None = None
) -> None:
    """Extract the wanted files of a zip or tar archive.

    They are extracted into a hidden folder and moved, in the order of the rules, when all of them
    are complete. Only their file names count, not their folders in the archive.

    Args:
        archive: the file.
        rules: the files to extract.
        root: the folder that `ExtractRule.folder` starts from.
        progress: called after each file.

    Raises:
        ValueError: the archive is damaged or does not hold the wanted files.
        OSError: the disk has too little space.
    """
    staging = root / f".{archive.name}.part"
    shutil.rmtree(staging, ignore_errors=True)
    with _open(archive) as (file, members):
        chosen = [fnmatch.filter(members, rule.pattern) for rule in rules]
        for rule, paths in zip(rules, chosen, strict=True):
            names = {PurePosixPath(path).name for path in paths}
            if not len(names) == len(paths) == rule.count:
                raise ValueError(
                    f"{archive}: holds {len(paths):,} files for {rule.folder}/ instead of "
                    f"{rule.count:,}: it is not the expected archive"
                )
        total, done = sum(members[path][1] for paths in chosen for path in paths), 0
        check_disk_space(root, total)
        for number, paths in enumerate(chosen):
            for path in paths:
                info, size = members[path]
                file.extract(info, staging / str(number))
                done += size
                if progress:
                    progress(done, total)
    for number, rule in enumerate(rules):
        (root / rule.folder).mkdir(parents=True, exist_ok=True)
        for file in (staging / str(number)).rglob("*"):
            if file.is_file():
                os.replace(file, root / rule.folder / file.name)
    shutil.rmtree(staging)


@contextmanager
def _open(archive: Path) -> Iterator[tuple[Any, dict[str, tuple[Any, int]]]]:
    """Open an archive; yields it with a member and a size for each of its files by path.

    Errors of the archive become one clear line.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                infos = [info for info in file.infolist() if not info.is_dir()]
                yield file, {info.filename: (info, info.file_size) for info in infos}
        else:
            with tarfile.open(archive) as tar:
                tar.extraction_filter = tarfile.data_filter  # nothing outside of the folder
                files = [info for info in tar.getmembers() if info.isfile()]
                yield tar, {info.name: (info, info.size) for info in files}
                while tar.fileobj and tar.fileobj.read(BLOCK):
                    pass  # gzip verifies its checksum at the end of the file
    except BROKEN as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # an error of the disk
        reason = str(error).splitlines()[0].rstrip(":")
        raise ValueError(f"{archive}: damaged ({reason}); delete it and start again") from None
