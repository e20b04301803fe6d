"""The archives that a published dataset comes in, what they hold, and proof that all is there."""

from __future__ import annotations

import fnmatch
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from fcos.data.coco import load_annotations, present_images
from fcos.data.named import check_is_minival
from fcos.data.sets import parts
from fcos.data.unpack import Take, Update, unpack

MINIVAL = ("coco_2017_val", "coco_2014_minival")


@dataclass(frozen=True)
class Archive:
    """An archive, what it must be, and what is wanted of it."""

    url: str
    takes: tuple[Take, ...]
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None

    @property
    def name(self) -> str:
        return PurePosixPath(self.url).name


@dataclass(frozen=True)
class Published:
    """A published dataset: its archives, and the number of images of its splits.

    `splits` are names of `fcos.data.sets.parts`, those that are trained on first.
    """

    name: str
    archives: tuple[Archive, ...]
    splits: Mapping[str, int]

    @staticmethod
    def of(name: str, stated: Mapping[str, Any]) -> Published:
        """From plain containers, such as a YAML file's."""
        archives = (
            Archive(**{**archive, "takes": tuple(Take(**take) for take in archive["takes"])})
            for archive in stated["archives"]
        )
        return Published(name, tuple(archives), stated["splits"])


Fetch = Callable[[Archive, Path], Path]


def missing(dataset: Published, root: Path) -> list[Archive]:
    """The archives whose files are not all under `root`, told by their number."""
    lists: dict[str, list[str]] = {}
    wanted: Counter[tuple[str, str]] = Counter()
    found = []
    for archive in dataset.archives:
        whole = True
        for take in archive.takes:
            names = lists.setdefault(take.into, _list(root / take.into))
            pattern = PurePosixPath(take.pattern).name
            wanted[take.into, pattern] += take.files
            whole &= len(fnmatch.filter(names, pattern)) >= wanted[take.into, pattern]
        if not whole:
            found.append(archive)
    return found


def room(archives: list[Archive], keep: bool) -> int:
    """Bytes that fetching and unpacking take: images do not shrink in an archive."""
    sizes = [archive.size or 0 for archive in archives]
    return sum(sizes) + (sum(sizes) if keep else max(sizes, default=0))


def bring(archive: Archive, root: Path, fetch: Fetch, update: Update | None = None) -> None:
    """Fetch one archive into `root`/archives and unpack it.

    Args:
        archive: see there.
        root: where to.
        fetch: brings the file into a folder, resumed and verified, and returns its path.
        update: see `unpack`.

    Raises:
        ValueError: the file is not the one that was published.
    """
    path = fetch(archive, root / "archives")
    if archive.md5 and not archive.sha256 and _md5(path) != archive.md5:
        path.unlink()
        raise ValueError(f"{path.name}: its MD5 is not {archive.md5}; it was removed, try again")
    unpack(path, archive.takes, root, update)


def remove(archive: Archive, root: Path) -> None:
    """Remove an archive that was unpacked, and what was kept beside it."""
    folder = root / "archives"
    for left in folder.glob(f"*{archive.name}*"):
        left.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def verify(dataset: Published, root: Path) -> dict[str, tuple[int, int, int]]:
    """Images, objects and classes of each split, after a look at every name.

    Raises:
        ValueError: a split does not have its number of images, or is not minival.
        ImageError: annotated images are not there.
    """
    found: dict[str, tuple[int, int, int]] = {}
    trained: list[Mapping[str, Any]] = []
    for split, number in dataset.splits.items():
        contents = []
        for part in parts(split, root):
            content = load_annotations(part.annotations)
            present_images(content["images"], part.images)
            contents.append(content)
        images = sum(len(content["images"]) for content in contents)
        if images != number:
            raise ValueError(f"{split} under {root} has {images:,} images, not {number:,}")
        if split in MINIVAL:
            check_is_minival(contents[0], trained)
        trained += contents
        objects = sum(len(content["annotations"]) for content in contents)
        found[split] = (images, objects, len(contents[0]["categories"]))
    return found


def _list(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
