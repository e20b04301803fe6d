"""`fcos-zoo data`: fetching published datasets from a local server, drawing, checking."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from mirrors import FaultyServer, drop, own_settings
from PIL import Image

from fcos.data import registry
from fcos.data.dataset import CocoDataset
from fcos.data.download import read_spec
from fcos.data.registry import resolve_dataset
from tools import data
from tools.cli import main
from zoo.registry import CONFIGS

Capture = pytest.CaptureFixture[str]


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (50, 40)).save(file, "JPEG")
    return file.getvalue()


def annotations(first: int, count: int) -> bytes:
    return json.dumps(
        {
            "images": [
                {"id": i, "file_name": f"{i}.jpg", "height": 40, "width": 50}
                for i in range(first, first + count)
            ],
            "annotations": [{"image_id": first, "category_id": 1, "bbox": [1, 2, 9, 9]}],
            "categories": [{"id": 1, "name": "thing"}],
        }
    ).encode()


def zipped(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


ANNOTATIONS = zipped(
    {
        "annotations/instances_train2017.json": annotations(10, 4),
        "annotations/instances_val2017.json": annotations(1, 2),
        "annotations/captions_val2017.json": b"{}",
    }
)
TRAIN = zipped({"train2017/": b"", **{f"train2017/{i}.jpg": picture() for i in range(10, 14)}})
VAL = zipped({f"val2017/{i}.jpg": picture() for i in (1, 2)})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FaultyServer]:
    """Serves a COCO 2017 of six images, and the configuration that says so is the zoo's."""
    own_settings(monkeypatch, tmp_path / "home")
    monkeypatch.setenv("COLUMNS", "200")
    digest = hashlib.sha256(b"1").hexdigest()  # image 1 has an object, image 2 has none
    monkeypatch.setattr(registry, "MINIVAL_ANNOTATED", digest)
    monkeypatch.setattr(registry, "MINIVAL_IMAGES", 2)
    monkeypatch.setattr(data, "CONFIGS", tmp_path / "configs")
    with FaultyServer() as server:
        bodies = {"annotations.zip": ANNOTATIONS, "val.zip": VAL, "train.zip": TRAIN}
        rules = {
            "annotations.zip": ("*instances_*2017.json", "annotations", 2),
            "val.zip": ("*.jpg", "val2017", 2),
            "train.zip": ("*.jpg", "train2017", 4),
        }
        archives = []
        for name, body in bodies.items():
            server.add(name, body)
            rule = dict(zip(("pattern", "folder", "count"), rules[name], strict=True))
            digest = hashlib.sha256(body).hexdigest()
            archives.append(
                {"url": server.url(name), "size": len(body), "sha256": digest, "extract": [rule]}
            )
        splits = {"coco_2017_train": 4, "coco_2017_val": 2}
        configure(tmp_path, "coco2017", {"archives": archives, "splits": splits})
        yield server


def configure(tmp_path: Path, name: str, content: dict[str, Any]) -> None:
    folder = tmp_path / "configs" / "dataset"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))


def asked(server: FaultyServer) -> dict[str, int]:
    return {name: len(resource.asked) for name, resource in server.resources.items()}


def test_a_published_dataset_arrives_in_the_layout_that_training_expects(
    server: FaultyServer, tmp_path: Path, capsys: Capture
) -> None:
    root = tmp_path / "coco"
    assert main(["data", "coco2017", "--root", str(root)]) == 0
    printed = capsys.readouterr().out
    assert "coco2017: 5.9 kB to download" in printed
    assert re.search(r"coco_2017_train +4 ", printed)
    (source,) = resolve_dataset("coco_2017_train", root)
    assert len(CocoDataset(*source, keep_empty=True)) == 4
    left = sorted(path.name for path in root.iterdir())
    assert left == [".data.lock", "annotations", "train2017", "val2017"]
    assert not (root / "annotations" / "captions_val2017.json").exists()


def test_done_work_is_not_repeated(server: FaultyServer, tmp_path: Path, capsys: Capture) -> None:
    arguments = ["data", "coco2017", "--root", str(tmp_path / "coco")]
    assert main(arguments) == 0
    capsys.readouterr()
    assert main(arguments) == 0
    assert "to download" not in capsys.readouterr().out
    assert set(asked(server).values()) == {1}
    (tmp_path / "coco" / "val2017" / "2.jpg").unlink()
    assert main(arguments) == 0
    assert asked(server) == {"annotations.zip": 1, "val.zip": 2, "train.zip": 1}
    assert (tmp_path / "coco" / "val2017" / "2.jpg").exists()


def test_an_interrupted_download_is_resumed(server: FaultyServer, tmp_path: Path) -> None:
    train = server.resources["train.zip"]
    train.faults.append(drop(2000))
    arguments = ["data", "coco2017", "--root", str(tmp_path / "coco"), "--keep"]
    assert main(arguments) == 0
    assert train.ranges == [None, "bytes=2000-"]
    assert (tmp_path / "coco" / "archives" / "train.zip").read_bytes() == TRAIN
    assert main(arguments[:-1]) == 0  # as after a kill between unpacking and removing
    assert not (tmp_path / "coco" / "archives").exists()


def test_another_file_under_the_url_is_refused(
    server: FaultyServer, tmp_path: Path, capsys: Capture
) -> None:
    server.resources["val.zip"].body = VAL[:-1] + b"x"
    assert main(["data", "coco2017", "--root", str(tmp_path / "coco")]) == 1
    assert "val.zip could not be downloaded" in capsys.readouterr().err
    assert not (tmp_path / "coco" / "val2017").exists()


def test_too_small_a_disk_is_reported_before_the_download(
    server: FaultyServer, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcos.data.download.shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    assert main(["data", "coco2017", "--root", str(tmp_path / "coco")]) == 1
    assert "choose a folder on another disk" in capsys.readouterr().err
    assert set(asked(server).values()) == {0}


def test_a_set_other_than_val2017_is_refused(
    server: FaultyServer, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "MINIVAL_ANNOTATED", "another")
    assert main(["data", "coco2017", "--root", str(tmp_path / "coco")]) == 1
    assert "not those of val2017/minival" in capsys.readouterr().err


def test_archives_with_only_an_md5_are_checked(
    server: FaultyServer, tmp_path: Path, capsys: Capture
) -> None:
    voc = {
        "VOCdevkit/VOC2012/JPEGImages/7.jpg": picture(),
        "VOCdevkit/VOC2012/Annotations/7.xml": b"<annotation><size><width>50</width>"
        b"<height>40</height></size></annotation>",
        "VOCdevkit/VOC2012/ImageSets/Main/trainval.txt": b"7\n",
        "VOCdevkit/VOC2012/ImageSets/Layout/trainval.txt": b"8\n",
        "VOCdevkit/VOC2012/SegmentationClass/7.png": b"",
    }
    body = tarred(voc)
    server.add("voc.tar", body)
    folders = {"JPEGImages": "*.jpg", "Annotations": "*.xml", "ImageSets/Main": "trainval.txt"}
    rules = [
        {"pattern": f"*/{folder}/{pattern}", "folder": f"VOC2012/{folder}", "count": 1}
        for folder, pattern in folders.items()
    ]
    for md5, code in (("0" * 32, 1), (hashlib.md5(body).hexdigest(), 0)):
        archive = {"url": server.url("voc.tar"), "md5": md5, "extract": rules}
        splits = {"voc_2012_trainval": 1}
        configure(tmp_path, "voc2012", {"archives": [archive], "splits": splits})
        assert main(["data", "voc2012", "--root", str(tmp_path / "voc")]) == code
    captured = capsys.readouterr()
    assert "voc.tar: its MD5 is not 000" in captured.err
    assert "1 of unpublished size" in captured.out
    lists = tmp_path / "voc" / "VOC2012" / "ImageSets"
    assert [str(path.relative_to(lists)) for path in lists.rglob("*.txt")] == ["Main/trainval.txt"]


@pytest.mark.parametrize("path", sorted((CONFIGS / "dataset").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_zoo_s_own_datasets_are_well_described(path: Path) -> None:
    dataset = read_spec(path)
    unknown = [a.name for a in dataset.archives if not (a.sha256 or a.md5)]
    assert unknown == (["instances_valrem.json.zip"] if path.stem == "coco_rem" else [])
    images = sum(r.count for a in dataset.archives for r in a.extract if r.pattern.endswith(".jpg"))
    assert images >= max(dataset.splits.values())
    last = list(dataset.splits)[-1]
    assert sum(dataset.splits.values()) <= images or last == "coco_2014_minival"


def test_drawn_shapes_pass_the_check(tmp_path: Path, capsys: Capture) -> None:
    arguments = ["data", "shapes", "--count", "4", "--seed", "3", "--out", str(tmp_path / "s")]
    assert main([*arguments, "--classes", "star,cross"]) == 0
    assert "annotations.json: 4 images" in capsys.readouterr().out
    assert main(["data", "check", str(tmp_path / "s")]) == 0
    assert "objects, 2 classes" in capsys.readouterr().out
    assert main(["data", "shapes", "--count", "0", "--out", str(tmp_path / "t")]) == 2


def test_check_names_findings_that_training_refuses(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for folder in ("annotations", "train", "val"):
        (tmp_path / folder).mkdir()
    (tmp_path / "annotations" / "instances_train.json").write_bytes(annotations(1, 3))
    (tmp_path / "annotations" / "instances_val.json").write_bytes(annotations(7, 1))
    (tmp_path / "annotations" / "captions_val.json").write_text("{}")
    for name in ("train/1", "train/2", "val/7"):
        (tmp_path / f"{name}.jpg").write_bytes(picture())
    (tmp_path / "train" / "3.jpg").write_bytes(b"")
    out = tmp_path / "found.json"
    assert main(["data", "check", str(tmp_path), "--json", str(out)]) == 1
    printed = capsys.readouterr().out
    assert "image unreadable" in printed
    assert "refused" in printed
    assert "training accepts it" in printed  # val
    found = json.loads(out.read_text())
    assert found["instances_train"]["counts"] == {"image without objects": 2, "image unreadable": 1}
    (bad,) = [f for f in found["instances_train"]["findings"] if f["training"] == "refused"]
    assert bad["where"] == str(tmp_path / "train" / "3.jpg")
    assert found["instances_val"]["ok"]


def test_check_takes_an_annotation_file_and_its_images(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "mine.json").write_bytes(annotations(1, 1))
    (tmp_path / "pictures").mkdir()
    Image.fromarray(np.zeros((40, 50), np.uint8)).save(tmp_path / "pictures" / "1.jpg")
    arguments = ["data", "check", str(tmp_path / "mine.json")]
    assert main([*arguments, str(tmp_path / "pictures")]) == 0
    assert "greyscale image" in capsys.readouterr().out
    assert main(arguments) == 1
    assert "1 of 1 annotated images are missing, first 1.jpg" in capsys.readouterr().err
