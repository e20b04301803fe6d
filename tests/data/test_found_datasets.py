"""Datasets are found in a folder by its layout."""

import json
from pathlib import Path

import pytest
from PIL import Image

from fcos.data.sets import found_under


def write(path: Path, file_name: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = {"id": 1, "file_name": file_name, "height": 4, "width": 5}
    thing = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2]}
    content = {"images": [image], "annotations": [thing], "categories": [{"id": 1}]}
    path.write_text(json.dumps(content))


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (5, 4)).save(path)


@pytest.mark.parametrize(
    ("annotations", "file_name", "folder"),
    [
        ("annotations/instances_val2017.json", "1.jpg", "val2017"),
        ("annotations/instances_minival2014.json", "1.jpg", "val2014"),
        ("annotations/instances_valminusminival2014.json", "1.jpg", "val2014"),
        ("annotations/train.json", "1.jpg", "images/train"),
        ("annotations/train.json", "train/1.jpg", "images"),
        ("annotations.json", "1.jpg", "images"),
        ("train.json", "sub/1.jpg", ""),
    ],
)
def test_the_images_of_an_annotation_file(tmp_path, annotations, file_name, folder):
    write(tmp_path / annotations, file_name)
    picture(tmp_path / folder / file_name)
    picture(tmp_path / "val2013" / "1.jpg")
    ((name, part),) = found_under(tmp_path)
    assert name == Path(annotations).stem
    assert part.images == tmp_path / folder


def test_of_official_annotations_only_the_instances_are_taken(tmp_path):
    for name in ("instances_train", "instances_val", "person_keypoints_val"):
        write(tmp_path / "annotations" / f"{name}.json", "1.jpg")
    assert [name for name, _ in found_under(tmp_path)] == ["instances_train", "instances_val"]


@pytest.mark.parametrize(
    ("lists", "found"),
    [
        (["trainval", "train", "val", "test", "cat_train"], ["trainval", "test"]),
        (["train", "val"], ["train", "val"]),
    ],
)
def test_image_sets_of_voc(tmp_path, lists, found):
    main = tmp_path / "VOC2007" / "ImageSets" / "Main"
    main.mkdir(parents=True)
    (tmp_path / "VOC2007" / "Annotations").mkdir()
    size = "<size><width>5</width><height>4</height></size>"
    (tmp_path / "VOC2007" / "Annotations" / "1.xml").write_text(f"<annotation>{size}</annotation>")
    for name in lists:
        (main / f"{name}.txt").write_text("1\n")
    named = dict(found_under(tmp_path))
    assert list(named) == [f"VOC2007 {name}" for name in found]
    assert {part.images for part in named.values()} == {tmp_path / "VOC2007" / "JPEGImages"}


def test_a_folder_with_nothing_says_what_was_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither annotations/\*\.json nor ImageSets"):
        list(found_under(tmp_path))
