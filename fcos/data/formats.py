"""Recognise what a file or folder holds, and read it as annotations in COCO's format.

Short functions of this project read all formats but COCO's, see `yolo`, `voc` and `labelled`.
globox, labelformat, datumaro and supervision were tried on small exports of each tool, and each of
them left out some of the files or failed.
"""

from __future__ import annotations

import mmap
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from fcos.data import yolo
from fcos.data.annotations import DatasetSource
from fcos.data.image_files import find_image_dir
from fcos.data.labelled import read_cvat, read_label_studio, read_labelme
from fcos.data.voc import read_voc, voc_splits

Splits = dict[str, Callable[[], DatasetSource]]  # each is read when called

FORMATS = (
    "COCO's *.json, YOLO's data.yaml or classes.txt, VOC's *.xml, LabelMe's *.json or CVAT's "
    "annotations.xml"
)
DEPTH = 2  # folders below the given one in which splits may be


def find_splits(path: str | Path) -> Splits:
    """Return the splits of a dataset in any known format, by name.

    A dataset is in the folder itself, in its `annotations` or `Annotations`, or else has one or
    more splits in each subfolder, like Roboflow's exports. Annotations are only parsed when a split
    is read.

    Raises:
        FileNotFoundError: there is no such path, or no dataset in it.
        ValueError: it is a file of no known format.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; check the path")
    splits = _of_folder(path, DEPTH) if path.is_dir() else _of_file(path)
    if not splits:
        raise FileNotFoundError(
            f"{path} holds neither annotations/*.json nor ImageSets/Main/*.txt, nor another of "
            f"{FORMATS}: name an annotation file and its image folder"
        )
    return splits


def choose_split(path: str | Path, splits: Splits, training: bool) -> str | None:
    """Return the name of the split to train on or to evaluate on, None if there is none.

    Raises:
        ValueError: there is none to train on, or the names do not show which one it is.
    """
    if len(splits) == 1:
        return next(iter(splits))
    for kind in ("train",) if training else ("val", "test"):
        chosen = [name for name in splits if split_kind(name) == kind]
        if len(chosen) == 1:
            return chosen[0]
        if chosen:
            break
    if not chosen and not training:
        return None
    number = f"{len(chosen)} splits" if chosen else "no split"
    key = "data.train" if training else "data.test"
    raise ValueError(
        f"{path} has {number} called {kind}, but {', '.join(splits)}: name one of them as {key}"
    )


def split_kind(name: str) -> str | None:
    """Return "train", "val" or "test" by the words of a split's name."""
    beginnings = {"train": "train", "val": "val", "dev": "val", "test": "test"}
    words = re.findall("[a-z]+", name.lower())
    kinds = (kind for start, kind in beginnings.items() if any(w.startswith(start) for w in words))
    return next(kinds, None)


def _of_file(path: Path) -> Splits:
    suffix = path.suffix.lower()
    if suffix in (".yaml", ".yml"):
        return yolo.yaml_splits(path)
    if suffix == ".xml":
        return _of_xml(path.parent, [path])
    if suffix == ".json":
        return _of_json([path]) or {path.stem: partial(_coco, path)}
    if suffix in (".zip", ".tar", ".gz", ".tgz"):
        raise ValueError(f"{path}: unpack the archive and name the folder")
    raise ValueError(f"{path}: not a dataset; name a folder, or one of {FORMATS}")


def _of_folder(folder: Path, depth: int) -> Splits:
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    yaml_files = [p for p in files if p.suffix in (".yaml", ".yml") and yolo.is_dataset_file(p)]
    if yaml_files:
        named = [path for path in yaml_files if path.name == "data.yaml"] or yaml_files
        if len(named) > 1:
            names = ", ".join(path.name for path in named)
            raise ValueError(f"{folder} has {names}: name one of them")
        return yolo.yaml_splits(named[0])
    if splits := voc_splits(folder):
        return splits
    inner = sorted(folder.glob("[aA]nnotations/*"))
    for group in (inner, files):
        if splits := _of_json([path for path in group if path.suffix == ".json"]):
            return splits
    for name in yolo.NAME_FILES:
        if (folder / name).is_file():
            return yolo.folder_splits(folder, folder / name)
    for group in (inner, files):
        if splits := _of_xml(folder, [path for path in group if path.suffix == ".xml"]):
            return splits
    below: Splits = {}
    for part in (path for path in files if depth and path.is_dir() and path.name != "__MACOSX"):
        splits = _of_folder(part, depth - 1)
        single = len(splits) == 1
        below |= {part.name if single else f"{part.name} {n}": read for n, read in splits.items()}
    unknown = [path for path in (*inner, *files) if path.suffix == ".json"]
    return below or {path.stem: partial(_coco, path) for path in unknown[:1]}


def _of_json(paths: Sequence[Path]) -> Splits:
    for path in paths:
        if _holds(path, b'"shapes"') and _holds(path, b'"imagePath"'):
            return {path.parent.name: partial(read_labelme, paths)}
        if _is_label_studio(path):
            return {path.stem: partial(read_label_studio, path)}
        if _holds(path, b'"images"'):
            files = [path for path in paths if _holds(path, b'"images"')]
            instances = [file for file in files if file.name.startswith("instances_")]
            return {file.stem: partial(_coco, file) for file in instances or files}
    return {}


def _of_xml(folder: Path, paths: Sequence[Path]) -> Splits:
    if not paths:
        return {}
    tag = _root_tag(paths[0])
    if tag == "annotations":
        return {path.stem: partial(read_cvat, path) for path in paths}
    return {folder.name: partial(read_voc, paths, folder)} if tag == "annotation" else {}


def _coco(path: Path) -> DatasetSource:
    return DatasetSource(path, find_image_dir(path))


def _is_label_studio(path: Path) -> bool:
    with path.open("rb") as file:
        is_list = file.read(100).lstrip().startswith(b"[")
    return is_list and _holds(path, b'"original_width"')


def _holds(path: Path, text: bytes) -> bool:
    """Whether a file contains a text; it is read no further than that."""
    if path.stat().st_size == 0:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(text) >= 0


def _root_tag(path: Path) -> str | None:
    try:
        return next((element.tag for _, element in ET.iterparse(path, ("start",))), None)
    except (ET.ParseError, LookupError, ValueError) as error:  # also for unknown encodings
        raise ValueError(f"{path}: not an XML file ({error})") from None
