"""The official COCO splits by name, and what may call itself val2017 or minival."""

import hashlib
import json

import pytest

from fcos.data import registry
from fcos.data.registry import check_is_minival, coco_safe, resolve_dataset


def annotations(ids, annotated=()) -> dict:
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 9, "width": 9} for i in ids],
        "annotations": [{"image_id": i, "category_id": 1, "bbox": [0, 0, 5, 5]} for i in annotated],
        "categories": [{"id": 1, "name": "thing"}],
    }


@pytest.fixture
def minival(monkeypatch) -> dict:
    """5,000 images that stand for minival: the digest of their ids takes its digest's place."""
    ids = range(0, 15000, 3)
    digest = hashlib.sha256(" ".join(map(str, ids[48:])).encode()).hexdigest()
    monkeypatch.setattr(registry, "MINIVAL_ANNOTATED", digest)
    return annotations(ids, ids[48:])


def test_minival_is_recognised(minival, tmp_path):
    (tmp_path / "train.json").write_text(json.dumps(annotations(range(1, 15000, 3))))
    check_is_minival(minival, training=[tmp_path / "train.json"])
    with pytest.raises(ValueError, match="2 of its images were trained on, first 6"):
        check_is_minival(minival, training=[annotations([1, 2]), annotations([4, 6, 9])])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (annotations(range(40504)), "which has 5,000 images; this has 40,504"),
        (annotations(range(5000), range(48, 5000)), "not those of val2017/minival"),
    ],
)
def test_other_images_are_not_minival(content, message):
    with pytest.raises(ValueError, match=message):
        check_is_minival(content)


LICENSES = [
    {"id": 1, "url": "http://creativecommons.org/licenses/by-nc-sa/2.0/"},
    {"id": 4, "url": "http://creativecommons.org/licenses/by/2.0/"},
    {"id": 6, "url": "http://creativecommons.org/licenses/by-nd/2.0/"},
    {"id": 8, "url": "http://www.usa.gov/copyright.shtml"},
]


def test_coco_safe_has_the_images_that_may_be_redistributed():
    content = annotations([1, 2, 3, 4], [1, 2, 2, 4]) | {"licenses": LICENSES}
    for image, license in zip(content["images"], (1, 4, 6, 8), strict=True):
        image["license"] = license
    safe = coco_safe(content)
    assert [image["id"] for image in safe["images"]] == [2, 3, 4]
    assert [thing["image_id"] for thing in safe["annotations"]] == [2, 2, 4]
    with pytest.raises(ValueError, match="no image has a license that allows redistribution"):
        coco_safe(annotations([1]))


def test_of_val2017_they_are_1525():
    content = annotations(range(5000)) | {"licenses": LICENSES}
    for number, image in enumerate(content["images"]):
        image["license"] = 4 if number < 1525 else 1
    assert len(coco_safe(content)["images"]) == 1525
    content["images"][0]["license"] = 1
    with pytest.raises(ValueError, match="1,524 images may be redistributed, but 1,525 of val"):
        coco_safe(content)


def test_shapes_of_other_settings_have_a_folder_of_their_own(tmp_path):
    for drawn in ({"count": 1}, {"count": 1, "most": 2}, {"count": 2}, {"count": 1, "seed": 1}):
        resolve_dataset("shapes", tmp_path, drawn={"size": 64, **drawn})
    assert len(list(tmp_path.iterdir())) == 4


def test_splits_under_a_root_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"instances_train2017\.json is missing"):
        resolve_dataset("coco_2017_train", tmp_path)
    (tmp_path / "annotations").mkdir()
    for name in ("train2017", "val2017", "train2014", "val2014"):
        (tmp_path / name).mkdir()
    for name in ("train2017", "val2017", "train2014", "valminusminival2014", "minival2014"):
        (tmp_path / "annotations" / f"instances_{name}.json").touch()

    def names(dataset):
        sources = resolve_dataset(dataset, tmp_path)
        return [(source.annotations.stem, source.image_dir.name) for source in sources]

    assert names("coco_2017_val") == [("instances_val2017", "val2017")]
    assert names("coco_2014_trainval35k") == [
        ("instances_train2014", "train2014"),
        ("instances_valminusminival2014", "val2014"),
    ]
    assert names("coco_2014_minival") == [("instances_minival2014", "val2014")]
    with pytest.raises(
        FileNotFoundError, match="coco_2018 is neither a dataset's file or folder nor one"
    ):
        resolve_dataset("coco_2018", tmp_path)
