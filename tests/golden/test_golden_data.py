"""Training images, boxes and labels are those that AdelaiDet's data loading gives."""

from __future__ import annotations

import json
import shutil
import zlib

import numpy as np
import pytest
import training_fixtures as project
from PIL import Image

ENTRY = "FCOS_MS_R_50_2x"
EXPECTED = project.load("data_adelaidet.json")["sets"]["train"]
EMBEDDED = {int(path.stem): path for path in (project.FOLDER / "images").glob("*.jpg")}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """The five embedded photographs among black images in place of the others."""
    folder = tmp_path_factory.mktemp("train")
    annotations = project.load("annotations_train.json.gz")
    used = EMBEDDED.keys() | {sample["image_id"] for sample in EXPECTED["samples"]}
    for image in annotations["images"]:
        path = folder / image["file_name"]
        if image["id"] in EMBEDDED:
            shutil.copy(EMBEDDED[image["id"]], path)
        elif image["id"] in used:
            Image.new("RGB", (image["width"], image["height"])).save(path)
        else:
            path.touch()
    (folder / "train.json").write_text(json.dumps(annotations))
    return project.training_set(ENTRY, folder / "train.json", folder)


def test_the_images_with_objects_are_kept_in_order(dataset):
    assert dataset.image_ids.tolist() == EXPECTED["image_ids"]


def test_labels_follow_the_category_ids(dataset):
    assert list(dataset.category_ids) == EXPECTED["category_ids"]


def test_images_are_grouped_by_orientation(dataset):
    assert dataset.portrait.tolist() == EXPECTED["portrait"]


def test_boxes_and_pixels_after_resizing_and_flipping(dataset):
    pixels_compared = 0
    for sample in EXPECTED["samples"]:
        index = EXPECTED["image_ids"].index(sample["image_id"])
        image, boxes, labels = project.augment(
            ENTRY, dataset, index, sample["size"], bool(sample["flip"])
        )
        assert list(image.shape[:2]) == sample["shape"]
        np.testing.assert_allclose(boxes, np.reshape(sample["boxes"], (-1, 4)), rtol=0, atol=2e-4)
        assert labels.tolist() == sample["labels"]
        if sample["image_id"] in EMBEDDED:
            assert zlib.crc32(image.tobytes()) == sample["crc32"]
            pixels_compared += 1
    assert pixels_compared == 9
