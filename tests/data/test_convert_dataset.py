"""Datasets are written in COCO's or YOLO's format as they were read."""

import json

import made_datasets
import pytest
from made_datasets import CAT, DOG, coco, images

from fcos.data.convert import convert
from fcos.data.dataset import CocoDataset
from fcos.data.formats import find_splits
from fcos.data.registry import resolve_dataset


@pytest.mark.parametrize("name", made_datasets.DATASETS)
@pytest.mark.parametrize("format", ["coco", "yolo"])
def test_converted_datasets_read_back_the_same(tmp_path, name, format):
    made_datasets.DATASETS[name](tmp_path / "in")
    splits = find_splits(tmp_path / "in")
    written = convert(splits, tmp_path / "out", format, "link")
    assert {(split.images, split.objects) for split in written.values()} == {(2, 2)}
    assert len(find_splits(tmp_path / "out")) == len(splits)
    (source,) = resolve_dataset(str(tmp_path / "out"), tmp_path)
    dataset = CocoDataset(*source, keep_empty=True)
    boxes = {
        dataset.classes[label]: tuple(box)
        for _, target in dataset
        for box, label in zip(target["boxes"].round().tolist(), target["labels"], strict=True)
    }
    assert boxes == {"dog": DOG, "cat": CAT}
    assert sorted(dataset.sizes.tolist()) == [[50, 60], [80, 100]]


def test_images_of_one_name_are_numbered_and_copied(tmp_path):
    images(tmp_path / "images" / "a")
    images(tmp_path / "images" / "b")
    coco(tmp_path / "train.json", "a/street.jpg", "b/street.jpg")
    content = json.loads((tmp_path / "train.json").read_text())
    content["images"][1] |= {"width": 100, "height": 80}
    images(tmp_path / "images", "4_street.jpg")
    images(tmp_path / "images")
    for id, name in ((2, "4_street.jpg"), (3, "street.jpg")):
        content["images"].append({**content["images"][1], "id": id, "file_name": name})
    (tmp_path / "train.json").write_text(json.dumps(content))
    convert(find_splits(tmp_path), tmp_path / "out", "coco", "copy")
    files = sorted((tmp_path / "out" / "images" / "train").iterdir())
    names = ["2_street.jpg", "4_4_street.jpg", "4_street.jpg", "street.jpg"]
    assert [file.name for file in files] == names
    assert not any(file.is_symlink() for file in files)
    with pytest.raises(FileExistsError, match="out is not empty"):
        convert(find_splits(tmp_path / "train.json"), tmp_path / "out", "coco", "copy")


def test_yolo_has_no_other_splits(tmp_path):
    for folder in ("left", "right"):
        made_datasets.label_me(tmp_path / folder)
    with pytest.raises(ValueError, match="left, right: a YOLO dataset has one split each"):
        convert(find_splits(tmp_path), tmp_path / "out", "yolo", "copy")
