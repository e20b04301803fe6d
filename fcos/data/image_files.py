"""Find the images of an annotation file, by the same rule for training, evaluation and checks."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from fcos.data.annotations import Annotations, Note, load_annotations
from fcos.image_io import ImageError

TRIED = 50  # number of a file's images that are searched in each folder
# Signs of another machine's file names: a scheme, a drive, a leading slash, backslashes.
FOREIGN = re.compile(r"[a-zA-Z][\w+.-]*:|[\\/]|.*\\")


def find_image_dir(annotations: str | Path, content: Annotations | None = None) -> Path:
    """Return the folder that the file names of an annotation file are relative to.

    Of the folders in which COCO, CVAT, FiftyOne, Label Studio and Roboflow place images, beside or
    above the file, it is the one that has most of the first 50 images. If none has any, it is
    `images` beside the file, or else the file's folder.

    Args:
        annotations: the path of the file.
        content: its content, if it has been read.
    """
    path = Path(annotations)
    split = re.sub(r"(valminusmini|mini)val", "val", path.stem.removeprefix("instances_"))
    beside = path.parent / "images"
    default = beside if beside.is_dir() else path.parent
    folders = [default]
    for base in (path.parent, path.parent.parent):
        folders += [base / name for name in (split, f"images/{split}", "images", "data", "")]
    images = load_annotations(path if content is None else content, labelled=False)["images"]
    names = [image["file_name"] for image in images[:TRIED]]
    for folder in folders:
        if all(os.path.isfile(folder / name) for name in names):
            return folder
    return max(folders, key=lambda folder: len(names) - find_files(names, folder).count(None))


def existing_images(
    images: Sequence[Mapping[str, Any]], root: Path, skip: bool = False, note: Note | None = None
) -> list[Mapping[str, Any]]:
    """Return the images whose files exist, with the names that `find_files` finds.

    Args:
        images: rows of an annotation file.
        root: the folder that their file names are relative to.
        skip: leave out missing files, unless all are missing.
        note: called with "image missing" or "file name corrected" and the name in the annotations.

    Raises:
        ImageError: files are missing; the message names the first and why it may not be found.
    """
    present: list[Mapping[str, Any]] = []
    missing: list[str] = []
    corrected: list[str] = []
    names = [image["file_name"] for image in images]
    for image, name, found in zip(images, names, find_files(names, root), strict=True):
        if found is None:
            missing.append(name)
        elif found == name:
            present.append(image)
        else:
            present.append({**image, "file_name": found})
            corrected.append(name)
    if missing and (not skip or not present):
        raise ImageError(
            f"{root}: {len(missing)} of {len(images)} annotated images are missing, first "
            f"{missing[0]}{_hint(root, missing[0])}",
            "image missing",
        )
    if note is not None:
        for name in missing:
            note("image missing", name)
        for name in corrected:
            note("file name corrected", name)
    return present


def find_files(names: Sequence[str], root: Path) -> list[str | None]:
    """Return the path of each file name below a folder, or None if there is no such file.

    If there is no file of exactly that name, the case of letters and the encoding of accents are
    ignored. For paths of another machine, the longest ending that exists is taken, also without the
    eight digits that Label Studio puts before names of uploaded files. A file that matches several
    names matches none.
    """
    folders: dict[str, dict[str, list[str]]] = {}
    found: list[str | None] = []
    for name in names:
        folder, base = os.path.split(os.path.join(root, name))
        written = base in _listing(folder, folders).get(_key(base), ())
        found.append(name if written else None)
    exact = {name for name in found if name is not None}
    similar = [
        next(_similar(name, str(root), folders), None) if name not in exact else None
        for name in names
    ]
    times = Counter(dict(zip(names, similar, strict=True)).values())
    return [
        name or (other if other not in exact and times[other] == 1 else None)
        for name, other in zip(found, similar, strict=True)
    ]


def _listing(folder: str, known: dict[str, dict[str, list[str]]]) -> dict[str, list[str]]:
    """Return the names in a folder by their `_key`; a folder is read only once."""
    if folder not in known:
        known[folder] = {}
        for name in os.listdir(folder or ".") if os.path.isdir(folder or ".") else ():
            known[folder].setdefault(_key(name), []).append(name)
    return known[folder]


def _key(name: str) -> str:
    """Return a key that ignores the case of letters and the encoding of accents."""
    return unicodedata.normalize("NFC", name).casefold()


def _similar(name: str, root: str, folders: dict[str, dict[str, list[str]]]) -> Iterator[str]:
    """Yield files below the root that the name may mean, its longest endings first."""
    plain = name
    foreign = FOREIGN.match(name) is not None
    if foreign and not plain.startswith("\\"):
        plain = unquote(plain.rpartition("?d=")[2])  # Label Studio's local files
    if "://" in name:
        plain = plain.partition("?")[0]
    parts = [part for part in re.split(r"[\\/]+", plain) if part not in ("", ".")]
    for start in range(len(parts) if foreign else 1):
        yield from _walk(parts[start:], root, folders)
    base = re.sub(r"^[0-9a-f]{8}-", "", parts[-1]) if parts else ""
    if parts and base != parts[-1]:
        for start in range(len(parts)):
            yield from _walk([*parts[start:-1], base], root, folders)


def _walk(
    parts: Sequence[str], root: str, folders: dict[str, dict[str, list[str]]]
) -> Iterator[str]:
    """Yield the path below the root with these parts, if each matches only one name."""
    path: list[str] = []
    for part in parts:
        here = _listing(os.path.join(root, *path), folders).get(_key(part), [])
        if part in here:
            here = [part]
        if part != ".." and len(here) != 1:
            return
        path += here or [part]
    yield os.path.join(*path)


def _hint(root: Path, name: str) -> str:
    """Return a remedy for a missing file, which names similar files if there are any."""
    base = re.split(r"[\\/]", name)[-1]
    similar = sorted(_listing(str(root), {}).get(_key(base), ()))
    if similar:
        return f"; the folder has {', '.join(similar)}: write names as the files are called there"
    return (
        "; name the folder from which the file names start, as data.train_images or behind the "
        "dataset of `data check` and `evaluate`"
    )
