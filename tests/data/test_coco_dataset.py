"""COCO annotation files: the targets of training, and what happens to irregular rows."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fcos.data.dataset import CocoDataset, concatenate
from fcos.image_io import ImageError

EMBEDDED = Path(__file__).parents[2] / "benchmarks" / "data" / "coco_val_ccby"


def content(*things: dict, images: int = 1) -> dict:
    """Annotations of 100x80 images and of the categories 7 (dog) and 3 (cat)."""
    return {
        "images": [
            {"id": 10 + i, "file_name": f"{i}.png", "height": 80, "width": 100}
            for i in range(images)
        ],
        "annotations": [{"image_id": 10, "category_id": 3, "iscrowd": 0, **t} for t in things],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    }


@pytest.fixture
def folder(tmp_path) -> Path:
    for i in range(3):
        Image.new("RGB", (100, 80), (i, 0, 0)).save(tmp_path / f"{i}.png")
    return tmp_path


BOX = {"bbox": [10, 20, 30, 40]}


def test_an_image_and_its_target(folder):
    dataset = CocoDataset(content(BOX, {**BOX, "category_id": 7}), folder)
    image, target = dataset[0]
    assert image.shape == (3, 80, 100)
    assert image.dtype == torch.uint8
    assert target["boxes"].tolist() == [[10, 20, 40, 60]] * 2
    assert target["boxes"].dtype == torch.float32
    assert target["labels"].tolist() == [0, 1]
    assert (target["image_id"], target["file_name"]) == (10, str(folder / "0.png"))
    assert dataset.classes == ("cat", "dog")
    assert dataset.category_ids == (3, 7)
    assert not dataset.counts


@pytest.mark.parametrize(
    ("thing", "outcome"),
    [
        ({"bbox": [10, 20, 30, 40], "iscrowd": 1}, "crowd left out"),
        ({"bbox": [10, 20, 30, 40], "category_id": 99}, "unknown category"),
        ({"bbox": [10, 20, 30, 40], "image_id": 99}, "unknown image"),
        ({"bbox": [10, 20, 0, 40]}, "box without area"),
        ({"bbox": [10, 20, -5, 40]}, "box without area"),
        ({"bbox": [200, 20, 30, 40]}, "box without area"),
        ({"bbox": [10, 20, 30]}, "malformed box"),
        ({"bbox": [10, 20, 30, float("nan")]}, "malformed box"),
        ({"bbox": ["1", "2", "3", "4"]}, "malformed box"),
        ({**BOX, "iscrowd": "1"}, "crowd left out"),
        ({**BOX, "iscrowd": "yes"}, "malformed iscrowd"),
        ({}, "malformed box"),
    ],
)
def test_objects_that_cannot_be_trained_on_are_left_out_and_counted(folder, thing, outcome):
    noted = []
    dataset = CocoDataset(content(BOX, thing), folder, note=lambda *found: noted.append(found))
    assert dataset.counts == {outcome: 1}
    assert len(dataset[0][1]["boxes"]) == 1
    assert noted[0][0] == outcome


def test_a_crowd_flag_of_text_is_read_and_a_malformed_area_is_not_used(folder):
    things = [{**BOX, "iscrowd": "0"}, {**BOX, "area": "large"}, {**BOX, "area": 10**400}]
    dataset = CocoDataset(content(*things), folder)
    assert len(dataset[0][1]["boxes"]) == 3
    assert dataset.counts == {"malformed area": 2}


@pytest.mark.parametrize(
    ("boxes", "options", "expected", "counts"),
    [
        ([[-5, 70, 30, 40]], {}, [[0, 70, 25, 80]], {"box clipped": 1}),
        ([[10.9, 20.2, 30.3, 40.1]], {"whole_pixels": True}, [[10, 20, 41, 60]], {}),
        (
            [[10, 20, 30, 40], [90, 70, 10, 10], [5, 5, 1, 9]],
            {"plus_one": True},
            [[10, 20, 39, 59], [90, 70, 99, 79]],
            {"box without area": 1},
        ),
    ],
)
def test_boxes_are_clipped_and_rounded_as_asked(folder, boxes, options, expected, counts):
    dataset = CocoDataset(content(*({"bbox": box} for box in boxes)), folder, **options)
    assert dataset[0][1]["boxes"].tolist() == expected
    assert dataset.counts == counts


def test_images_without_objects_are_left_out_unless_asked_for(folder):
    trained = CocoDataset(content(BOX, images=3), folder)
    assert len(trained) == 1
    assert trained.counts == {"image without objects": 2}
    every = CocoDataset(content(BOX, images=3), folder, keep_empty=True)
    assert [len(target["labels"]) for _, target in every] == [1, 0, 0]
    assert every[2][1]["boxes"].shape == (0, 4)


def test_objects_keep_the_order_of_the_file(folder):
    things = [{"image_id": 10 + i % 3, "bbox": [i, 0, 5, 5]} for i in range(9)]
    dataset = CocoDataset(content(*things, images=3), folder)
    assert [t["boxes"][:, 0].tolist() for _, t in dataset] == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]


def test_missing_images_are_refused_or_left_out(folder):
    (folder / "1.png").unlink()
    things = [{**BOX, "image_id": 10 + i} for i in range(3)]
    with pytest.raises(ImageError, match=r"1 of 3 annotated images are missing, first 1\.png"):
        CocoDataset(content(*things, images=3), folder)
    dataset = CocoDataset(content(*things, images=3), folder, skip_unreadable=True)
    assert dataset.image_ids.tolist() == [10, 12]
    assert dataset.counts == {"image missing": 1}


def test_unreadable_images_are_refused_or_skipped(folder):
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes()[:60])
    Image.new("RGB", (90, 80)).save(folder / "1.png")
    things = [{**BOX, "image_id": 10 + i} for i in range(3)]
    strict = CocoDataset(content(*things, images=3), folder)
    with pytest.raises(ImageError, match=r"0\.png: not a readable image"):
        strict[0]
    with pytest.raises(ImageError, match=r"1\.png: the image is 90x80"):
        strict[1]
    lenient = CocoDataset(content(*things, images=3), folder, skip_unreadable=True)
    target = lenient[0][1]
    assert (target["image_id"], target["skipped"]) == (12, 2)
    (folder / "2.png").write_bytes(b"")
    with pytest.raises(ImageError, match="none of the 3 images can be read"):
        lenient[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": None}, 'no list "images"'),
        ({"categories": []}, "no images or no categories"),
        ({"images": [{"id": 1, "height": 80, "width": 9}]}, r"images\[0\] has no .*file_name"),
        ({"categories": [{"id": 3}, {"id": 3}]}, "2 of the categories have the id 3"),
        (
            {"images": [{"id": 1.5, "file_name": "0.png", "height": 8, "width": 9}]},
            "no valid id",
        ),
        ({"images": ["0.png"]}, r"images\[0\] is not a JSON object"),
        ({"annotations": [BOX, 7]}, r"annotations\[1\] is not a JSON object"),
        ({"annotations": []}, "no image .* has an object"),
    ],
)
def test_other_files_are_refused_by_name(folder, change, message):
    (folder / "a.json").write_text(json.dumps({**content(BOX), **change}))
    with pytest.raises(ValueError, match=message):
        CocoDataset(folder / "a.json", folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps(content(BOX))[:-20], "not a complete JSON file"),
        ('[{"image_id": 1, "bbox": [0, 0, 1, 1]}]', "a list, as COCO results are"),
        (None, "no such annotation file"),
    ],
)
def test_damaged_missing_and_results_files_are_refused_by_name(folder, text, message):
    if text is not None:
        (folder / "a.json").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=rf"a\.json: {message}"):
        CocoDataset(folder / "a.json", folder)


def test_annotation_ids_may_repeat_and_names_be_of_any_script(folder):
    (folder / "0.png").rename(folder / "Straße 写真.png")
    annotations = content({**BOX, "id": 1}, {**BOX, "id": 1, "category_id": 7})
    annotations["images"][0]["file_name"] = "Straße 写真.png"
    (folder / "a.json").write_text(json.dumps(annotations), encoding="utf-8")
    _, target = CocoDataset(folder / "a.json", folder)[0]
    assert target["labels"].tolist() == [0, 1]


def test_datasets_of_the_same_classes_can_be_joined(folder):
    things = [{**BOX, "image_id": 10 + i} for i in range(3)]
    first = CocoDataset(content(*things[:2], images=2), folder)
    second = CocoDataset(content(things[2], BOX, images=3), folder)
    both = concatenate([first, second])
    assert both.image_ids.tolist() == [10, 11, 10, 12]
    for joined, original in zip(both, [*first, *second], strict=True):
        assert torch.equal(joined[1]["boxes"], original[1]["boxes"])
        assert torch.equal(joined[0], original[0])
    other = CocoDataset({**content(BOX), "categories": [{"id": 3}]}, folder)
    with pytest.raises(ValueError, match="different classes"):
        concatenate([first, other])


def test_the_embedded_real_images():
    dataset = CocoDataset(EMBEDDED / "annotations.json", EMBEDDED / "images", keep_empty=True)
    assert (len(dataset), len(dataset.classes), len(dataset.labels)) == (31, 80, 220)
    assert dataset.counts == {"crowd left out": 2, "image without objects": 2}
    assert np.array_equal(dataset.portrait, dataset.sizes[:, 0] >= dataset.sizes[:, 1])
    assert [list(image.shape[1:]) for image, _ in dataset] == dataset.sizes.tolist()
    credits = (EMBEDDED / "CREDITS.md").read_text()
    assert all(Path(file).name in credits for file in dataset.files)
