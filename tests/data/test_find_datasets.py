"""Finding datasets in a folder, and the images of an annotation file, by the layout."""

import json
from pathlib import Path

import pytest
from PIL import Image

from fcos.data.dataset import CocoDataset
from fcos.data.formats import find_splits
from fcos.data.image_files import find_image_dir
from fcos.data.registry import resolve_dataset
from fcos.image_io import ImageError


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
        ("annotations.json", "images/1.jpg", ""),  # Label Studio
        ("labels.json", "1.jpg", "data"),  # FiftyOne
        ("annotations/instances_default.json", "1.jpg", "images/default"),  # CVAT
        ("train.json", "sub/1.jpg", ""),
    ],
)
def test_the_images_of_an_annotation_file(tmp_path, annotations, file_name, folder):
    write(tmp_path / annotations, file_name)
    picture(tmp_path / folder / file_name)
    picture(tmp_path / "val2013" / "1.jpg")
    ((name, read),) = find_splits(tmp_path).items()
    source = read()
    assert name == Path(annotations).stem
    assert source.image_dir == tmp_path / folder
    path = tmp_path / annotations
    assert find_image_dir(path) == tmp_path / folder
    (resolved,) = resolve_dataset(str(path), tmp_path)  # as training does
    assert resolved.image_dir == tmp_path / folder


def test_of_official_annotations_only_the_instances_are_taken(tmp_path):
    for name in ("instances_train", "instances_val", "person_keypoints_val"):
        write(tmp_path / "annotations" / f"{name}.json", "1.jpg")
    assert list(find_splits(tmp_path)) == ["instances_train", "instances_val"]


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
    named = {name: read() for name, read in find_splits(tmp_path).items()}
    assert list(named) == [f"VOC2007 {name}" for name in found]
    assert {source.image_dir for source in named.values()} == {tmp_path / "VOC2007" / "JPEGImages"}


def test_an_empty_folder_is_refused_with_the_known_layouts(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither annotations/\*\.json nor ImageSets"):
        find_splits(tmp_path)


@pytest.mark.parametrize(
    ("annotated", "stored"),
    [
        ("photos\\1.jpg", "photos/1.jpg"),
        ("/photos/1.jpg", "photos/1.jpg"),
        ("1.JPG", "1.jpg"),
        ("Cafe\u0301.jpg", "caf\u00e9.jpg"),  # accents as macOS encodes them
        (r"C:\Users\me\photos\1.jpg", "1.jpg"),
        ("s3://bucket/photos/1.jpg", "photos/1.jpg"),
        ("https://host/photos/1.jpg?key=a/b", "photos/1.jpg"),
        ("file:///home/me/my%20photos/1.jpg", "my photos/1.jpg"),
        ("/data/local-files/?d=photos/1.jpg", "photos/1.jpg"),
        ("/data/upload/3/0a1b2c3d-1.jpg", "1.jpg"),  # of Label Studio
    ],
)
def test_an_image_is_found_by_the_name_that_another_machine_gave_it(tmp_path, annotated, stored):
    write(tmp_path / "a.json", annotated)
    picture(tmp_path / stored)
    dataset = CocoDataset(tmp_path / "a.json", find_image_dir(tmp_path / "a.json"))
    assert Path(dataset.files[0]).samefile(tmp_path / stored)
    assert dataset.counts == {"file name corrected": 1}


def test_a_name_that_may_mean_two_images_means_neither(tmp_path):
    write(tmp_path / "a.json", "PHOTO.jpg")
    for name in ("Photo.jpg", "photo.jpg"):
        picture(tmp_path / name)
    with pytest.raises(ImageError, match=r"missing, first PHOTO.jpg; .* has Photo.jpg, photo.jpg:"):
        CocoDataset(tmp_path / "a.json", tmp_path)


def test_a_relative_name_does_not_lose_its_folder(tmp_path):
    write(tmp_path / "a.json", "B/1.jpg")
    picture(tmp_path / "A" / "1.jpg")
    picture(tmp_path / "1.jpg")
    with pytest.raises(ImageError, match=r"first B/1.jpg; the folder has 1.jpg"):
        CocoDataset(tmp_path / "a.json", tmp_path)
