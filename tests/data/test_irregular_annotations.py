"""Annotation files as tools write them: text ids, unknown sizes, masks without boxes."""

import json

import pytest
import torch
from PIL import Image
from pycocotools import mask

from fcos.coco_eval import evaluate_detections, to_coco_results
from fcos.data.annotations import load_annotations
from fcos.data.dataset import CocoDataset
from fcos.image_io import ImageError

IMAGE = {"id": 7, "file_name": "a.png", "width": 40, "height": 30}
OBJECT = {"id": 1, "image_id": 7, "category_id": 2, "bbox": [4, 5, 6, 7]}
CATEGORY = {"id": 2, "name": "cat"}
MASK = {"size": [30, 40], "counts": [4 * 30 + 5, 7, 23, 7, 1038]}  # two columns of seven pixels
COMPRESSED = {"size": [30, 40], "counts": mask.frPyObjects(MASK, 30, 40)["counts"].decode()}


@pytest.fixture
def write(tmp_path):
    """Writes an annotation file of one image, object and category, with some fields changed."""
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")

    def write(image=(), thing=(), category=(), more_categories=()):
        content = {
            "images": [{**IMAGE, **dict(image)}],
            "annotations": [{**OBJECT, **dict(thing)}],
            "categories": [*more_categories, {**CATEGORY, **dict(category)}],
        }
        (tmp_path / "a.json").write_text(json.dumps(content))
        return tmp_path / "a.json"

    return write


@pytest.mark.parametrize(
    ("image", "thing", "category", "image_id"),
    [
        ({"id": "7"}, {}, {}, 7),
        ({}, {"image_id": "7", "category_id": "2"}, {}, 7),
        ({"id": 7.0}, {"category_id": 2.0}, {}, 7),
        ({"id": "a1f"}, {"image_id": "a1f"}, {}, 1),
        ({"id": "007"}, {"image_id": "007"}, {}, 1),
        ({}, {"category_id": "cat"}, {"id": "cat"}, 7),
    ],
)
def test_ids_that_are_text_or_floats(tmp_path, write, image, thing, category, image_id):
    file = write(image, thing, category)
    dataset = CocoDataset(file, tmp_path)
    target = dataset[0][1]
    assert target["image_id"] == image_id
    assert target["boxes"].tolist() == [[4, 5, 10, 12]]
    found = to_coco_results(
        image_id, target["boxes"], torch.ones(1), target["labels"], dataset.category_ids
    )
    assert evaluate_detections(found, file)["AP"] == pytest.approx(1)


def test_unknown_ids_are_not_mistaken_for_positions(tmp_path, write):
    file = write({"id": "a"}, {"image_id": 1})
    with pytest.raises(ValueError, match="1 x id as text, 1 x unknown image"):
        CocoDataset(file, tmp_path)


@pytest.mark.parametrize(
    "size",
    [{"width": None, "height": None}, {"width": -1, "height": -1}, {"width": 0}, {"height": "30"}],
)
def test_unknown_sizes_are_read_from_the_images(tmp_path, write, size):
    file = write(size)
    exif = Image.Exif()
    for turned, shape in ((False, [30, 40]), (True, [40, 30])):
        if turned:
            exif[0x0112] = 6  # a quarter turn
            Image.new("RGB", (40, 30)).save(tmp_path / "a.png", exif=exif)
        dataset = CocoDataset(file, tmp_path)
        assert dataset.sizes.tolist() == [shape]
        assert dataset.counts == {"size read from the image": 1}
        assert list(dataset[0][0].shape) == [3, *shape]


def test_an_unreadable_image_of_unknown_size_is_named(tmp_path, write):
    file = write({"width": 0})
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"a\.png: not a readable image"):
        CocoDataset(file, tmp_path)
    skipping = CocoDataset(file, tmp_path, keep_empty=True, skip_unreadable=True)
    with pytest.raises(ImageError, match="none of the 1 images can be read"):
        skipping[0]


@pytest.mark.parametrize(
    ("segmentation", "box"),
    [
        ([[4, 5, 10, 5, 10, 12], [20, 1, 22, 3, 21, 9]], [4, 1, 22, 12]),
        ([4, 5, 10, 5, 10, 12], [4, 5, 10, 12]),
        (MASK, [4, 5, 6, 12]),
        (COMPRESSED, [4, 5, 6, 12]),
    ],
)
def test_boxes_around_segmentations(tmp_path, write, segmentation, box):
    for absent in ({"bbox": None}, {"bbox": []}):
        file = write(thing={**absent, "segmentation": segmentation})
        dataset = CocoDataset(file, tmp_path)
        assert dataset[0][1]["boxes"].tolist() == [box]
        assert dataset.counts == {"box of the segmentation": 1}
        found = to_coco_results(7, dataset[0][1]["boxes"], torch.ones(1), torch.tensor([0]), [2])
        assert evaluate_detections(found, file)["AP"] == pytest.approx(1)


@pytest.mark.parametrize("segmentation", [None, [], [[]], "polygon", {"counts": 5}, [[1, "x"]]])
def test_malformed_segmentations_give_no_box(tmp_path, write, segmentation):
    file = write(thing={"bbox": None, "segmentation": segmentation})
    dataset = CocoDataset(file, tmp_path, keep_empty=True)
    assert dataset.counts == {"malformed box": 1, "image without objects": 1}


@pytest.mark.parametrize(
    ("added", "names"),
    [
        ({"id": 0, "name": "pets", "supercategory": "none"}, ["cat"]),
        ({"id": 0, "name": "cat", "supercategory": "none"}, ["cat", "cat"]),  # of no other one
        ({"id": 0, "name": "pets", "supercategory": "pets"}, ["pets", "cat"]),
        ({"id": 1, "name": "pets", "supercategory": "none"}, ["pets", "cat"]),
    ],
)
def test_the_category_that_roboflow_adds_is_left_out(write, added, names):
    file = write(category={"supercategory": "pets"}, more_categories=[added])
    content = load_annotations(file)
    assert [category["name"] for category in content["categories"]] == names
    used = write({}, {"category_id": 0}, {"supercategory": "pets"}, [added | {"id": 0}])
    assert len(load_annotations(used)["categories"]) == 2


@pytest.mark.parametrize(
    ("box", "form"),
    [
        ([0.1, 0.2, 0.3, 0.4], "fractions of the image"),
        ([25, 10, 36, 28], r"corners \(x1, y1, x2, y2\)"),
    ],
)
def test_boxes_of_other_formats_are_refused_by_the_file_s_name(tmp_path, write, box, form):
    file = write(thing={"bbox": box})
    with pytest.raises(ValueError, match=rf"a\.json: the boxes look like {form}"):
        CocoDataset(file, tmp_path)


def test_a_box_slightly_larger_than_its_image_is_clipped(tmp_path, write):
    dataset = CocoDataset(write(thing={"bbox": [2, 2, 40, 30]}), tmp_path)
    assert dataset[0][1]["boxes"].tolist() == [[2, 2, 40, 30]]
