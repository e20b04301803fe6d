"""What annotation tools export is recognised, and becomes boxes in pixels."""

from pathlib import Path

import made_datasets
import pytest
from made_datasets import CAT, DOG, images, voc_xml, write

from fcos.data.dataset import CocoDataset
from fcos.data.formats import choose_split, find_splits
from fcos.data.registry import resolve_dataset


def objects(dataset: CocoDataset) -> dict[str, list[tuple[str, tuple[float, ...]]]]:
    """By file name, the class and box of each object."""
    found = {}
    for index, file in enumerate(dataset.files):
        image, target = dataset[index]
        assert image.shape[1:] == tuple(dataset.sizes[index])
        names = [dataset.classes[label] for label in target["labels"]]
        boxes = [tuple(round(side, 3) for side in box) for box in target["boxes"].tolist()]
        found[Path(file).name.split("-")[-1].split()[-1]] = list(zip(names, boxes, strict=True))
    return found


@pytest.mark.parametrize("name", made_datasets.DATASETS)
def test_boxes_sizes_and_empty_images(tmp_path, name):
    made_datasets.DATASETS[name](tmp_path)
    for training in (True, False):
        (source,) = resolve_dataset(str(tmp_path), tmp_path, training=training)
        dataset = CocoDataset(*source, keep_empty=True)
        assert objects(dataset) == {"street.jpg": [("dog", DOG), ("cat", CAT)], "empty.png": []}


def test_voc_files_of_own_classes_in_the_usual_folders(tmp_path):
    made_datasets.own_voc(tmp_path / "VOCdevkit" / "VOC2007")
    images(tmp_path / "pets" / "images")
    voc_xml(tmp_path / "pets" / "labels" / "street.xml", "street.jpg", ("dog", DOG), ("cat", CAT))
    for folder in ("VOCdevkit", "pets"):
        (source,) = resolve_dataset(str(tmp_path / folder), tmp_path)
        dataset = CocoDataset(*source)
        assert dataset.classes == ("cat", "dog")
        assert objects(dataset) == {"street.jpg": [("dog", DOG), ("cat", CAT)]}


@pytest.mark.parametrize(
    ("name", "splits", "chosen"),
    [
        ("Roboflow COCO", ["test", "train", "valid"], ("train", "valid")),
        ("Roboflow YOLO", ["train", "val"], ("train", "val")),
        ("own VOC", ["train", "val"], ("train", "val")),
        ("Roboflow VOC", ["train", "valid"], ("train", "valid")),
    ],
)
def test_splits_for_training_and_evaluation(tmp_path, name, splits, chosen):
    made_datasets.DATASETS[name](tmp_path)
    found = find_splits(tmp_path)
    assert list(found) == splits
    assert tuple(choose_split(tmp_path, found, training) for training in (True, False)) == chosen


def test_splits_whose_names_do_not_tell(tmp_path):
    for folder in ("left", "right"):
        made_datasets.label_me(tmp_path / folder)
    splits = find_splits(tmp_path)
    with pytest.raises(
        ValueError, match="no split called train, but left, right: name one of them"
    ):
        choose_split(tmp_path, splits, training=True)
    assert choose_split(tmp_path, splits, training=False) is None


@pytest.mark.parametrize("file", ["data.yaml", "train/_annotations.coco.json", "street.json"])
def test_a_file_in_place_of_a_folder(tmp_path, file):
    for name in ("Roboflow YOLO", "Roboflow COCO", "LabelMe"):
        made_datasets.DATASETS[name](tmp_path)
    (source,) = resolve_dataset(str(tmp_path / file), tmp_path)
    assert objects(CocoDataset(*source))["street.jpg"] == [("dog", DOG), ("cat", CAT)]


@pytest.mark.parametrize(
    ("line", "box", "kind"),
    [
        ("1 0.5 0.5 0.2 0.5 0.87", (24, 12.5, 36, 37.5), None),  # with a score
        ("1 0.4 0.25 0.6 0.25 0.6 0.75 0.4 0.75", (24, 12.5, 36, 37.5), None),  # four corners
        ("1 0.5 0.5 1.001 0.5", (0, 12.5, 60, 37.5), "box clipped"),
        ("1 50 40 20 40", None, "malformed box"),  # pixels
        ("1 0.5 0.5 0.2", None, "malformed box"),
        ("one 0.5 0.5 0.2 0.5", None, "malformed box"),
        ("2 0.5 0.5 0.2 0.5", None, "unknown category"),
        ("0.5 0.5 0.5 0.2 0.5", None, "unknown category"),
        ("1 0.5 0.5 0 0.5", None, "box without area"),
    ],
)
def test_lines_of_yolo_labels(tmp_path, line, box, kind):
    made_datasets.ultralytics(tmp_path)
    write(tmp_path / "labels" / "train" / "empty.txt", f"\ufeff{line}\n\n")
    (source,) = resolve_dataset(str(tmp_path), tmp_path)
    dataset = CocoDataset(*source, keep_empty=True)
    assert objects(dataset)["empty.png"] == ([("cat", box)] if box else [])
    assert dataset.counts[kind] == 1 if kind else not dataset.counts


def labelme(*shapes):
    named = [{"label": "dog", **shape} for shape in shapes]
    return {"shapes": named, "imagePath": r"C:\photos\street.jpg"}


def cvat(shape):
    image = f'<image name="street.jpg" width="100" height="80"><{shape} label="dog"/></image>'
    return f"<annotations>{image}</annotations>"


def label_studio(**shape):
    size = {"original_width": 100, "original_height": 80}
    return [{"image": "s3://bucket/street.jpg", "label": [{**size, **shape}]}]  # JSON_MIN


TURNED = {"x": 50, "y": 25, "width": 20, "height": 10, "rotation": 90}
ROUND = {"x": 50, "y": 25, "radiusX": 20, "radiusY": 10}


@pytest.mark.parametrize(
    ("content", "box"),
    [
        (labelme({"points": [[50, 40], [50, 50]], "shape_type": "circle"}), (40, 30, 60, 50)),
        (labelme({"points": [[5, 6], [15, 26], [9, 9]]}), (5, 6, 15, 26)),
        (
            labelme(*({"points": p, "group_id": 1} for p in ([[1, 2], [3, 4]], [[9, 5], [7, 8]]))),
            (1, 2, 9, 8),
        ),
        (
            cvat('box xtl="40" ytl="30" xbr="60" ybr="40" rotation="90"'),
            (45, 25, 55, 45),
        ),
        (
            cvat('ellipse cx="50" cy="40" rx="20" ry="10" rotation="90"'),
            (40, 20, 60, 60),
        ),
        (
            cvat('mask left="5" top="6" width="10" height="20" rle=""'),
            (5, 6, 15, 26),
        ),
        (label_studio(**TURNED, rectanglelabels=["dog"]), (42, 20, 50, 40)),
        (label_studio(**ROUND, ellipselabels=["dog"]), (30, 12, 70, 28)),
    ],
)
def test_the_box_around_a_shape(tmp_path, content, box):
    images(tmp_path)
    write(tmp_path / ("street.xml" if isinstance(content, str) else "street.json"), content)
    (source,) = resolve_dataset(str(tmp_path), tmp_path)
    assert objects(CocoDataset(*source)) == {"street.jpg": [("dog", box)]}


@pytest.mark.parametrize("name", ["labelImg", "LabelMe"])
def test_unlabelled_images_are_counted(tmp_path, name):
    made_datasets.DATASETS[name](tmp_path)
    images(tmp_path, "street.jpg", "new.png")
    (source,) = resolve_dataset(str(tmp_path), tmp_path)
    assert CocoDataset(*source).counts["image without annotation file"] == 1


def test_voc_files_that_count_pixels_from_0(tmp_path):
    images(tmp_path)
    voc_xml(tmp_path / "street.xml", "street.jpg", ("dog", (9, 19, 40, 60)), ("cat", (-1, 4, 9, 9)))
    (source,) = resolve_dataset(str(tmp_path), tmp_path)
    expected = [("dog", (10, 20, 40, 60)), ("cat", (0, 5, 9, 9))]
    assert objects(CocoDataset(*source)) == {"street.jpg": expected}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data.yaml", "train: [", "data.yaml: not a YAML file"),
        (
            "data.yaml",
            "names: [a]\ntrain: none",
            "data.yaml: no such folder or list of images: none",
        ),
        ("data.yaml", "nc: two\ntrain: a", "data.yaml: names must be a list"),
        ("data.yaml", "names: [a]\ntrain: 5", "data.yaml: train must be a path, or a list"),
        ("a.xml", "<annotation>", "a.xml: not a VOC annotation"),
        ("a.xml", "<annotations><track/></annotations>", "a.xml: tracks of a video"),
        ("a.json", '{"imagePath": "a", "shapes": [{}]}', "a.json: not a LabelMe annotation file"),
        ("a.zip", "PK", "a.zip: unpack the archive"),
        ("a.txt", "", "a.txt: not a dataset"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        resolve_dataset(str(path), tmp_path)
