"""The PASCAL VOC layout: pixels count from 1, difficult objects are set apart."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from fcos.coco_eval import evaluate_detections, to_coco_results
from fcos.data.dataset import CocoDataset
from fcos.data.formats import find_splits
from fcos.data.registry import resolve_dataset
from fcos.data.voc import CLASSES, voc_annotations


def thing(name: str, box: tuple[float, ...], difficult: str = "<difficult>0</difficult>") -> str:
    tags = ("xmin", "ymin", "xmax", "ymax")
    sides = "".join(f"<{tag}>{v}</{tag}>" for tag, v in zip(tags, box, strict=True))
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    return f"<object>{part}<name>{name}</name>{difficult}<bndbox>{sides}</bndbox></object>"


def add(root: Path, name: str, *things: str) -> None:
    size = "<size><width>60</width><height>50</height><depth>3</depth></size>"
    (root / "Annotations" / f"{name}.xml").write_text(
        f"<annotation>{size}{''.join(things)}</annotation>"
    )
    Image.new("RGB", (60, 50)).save(root / "JPEGImages" / f"{name}.jpg")


@pytest.fixture
def root(tmp_path) -> Path:
    root = tmp_path / "VOC2007"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    (root / "ImageSets/Main/trainval.txt").write_text("2007_000027\n000005\n")
    add(root, "2007_000027", thing("person", (1, 1, 60, 50)), thing("Dog", (2, 3, 2.0, 9)))
    add(
        root,
        "000005",
        thing("chair", (11, 21, 30, 40), difficult=""),
        thing("chair", (1, 1, 9, 9), difficult="<difficult>1</difficult>"),
        thing("unicorn", (1, 1, 9, 9)),
    )
    return root


def read(root: Path, image_set: str = "trainval") -> CocoDataset:
    return CocoDataset(voc_annotations(root, image_set), root / "JPEGImages")


def test_boxes_and_classes(root):
    dataset = read(root)
    assert dataset.classes == CLASSES
    assert dataset.image_ids.tolist() == [2007000027, 5]
    assert dataset[0][1]["boxes"].tolist() == [[0, 0, 60, 50], [1, 2, 2, 9]]
    assert [CLASSES[label] for label in dataset[0][1]["labels"]] == ["person", "dog"]
    assert dataset[1][1]["boxes"].tolist() == [[10, 20, 30, 40]]
    assert dataset.counts == {"crowd left out": 1, "unknown category": 1}


def test_difficult_objects_are_trained_on_and_boxes_can_end_on_their_last_pixel(root):
    [source] = resolve_dataset("voc_2007_trainval", root.parent)
    dataset = CocoDataset(*source, plus_one=True)
    assert dataset[1][1]["boxes"].tolist() == [[10, 20, 29, 39], [0, 0, 8, 8]]


def test_names_that_are_no_numbers_in_a_list_of_one_class(root):
    (root / "ImageSets/Main/mine.txt").write_text("frame_a  1\nframe_b -1\n")
    add(root, "frame_a", thing("dog", (1, 1, 9, 9)))
    assert read(root, "mine").image_ids.tolist() == [1]


def test_perfect_detections_score_one_and_difficult_objects_do_not_count(root):
    dataset = read(root)
    results = []
    for index in range(len(dataset)):
        _, target = dataset[index]
        results += to_coco_results(
            target["image_id"],
            target["boxes"],
            torch.ones(len(target["labels"])),
            target["labels"],
            dataset.category_ids,
        )
    figures = evaluate_detections(results, voc_annotations(root, "trainval"))
    assert figures["AP"] == pytest.approx(1)
    assert figures["per_class"]["bus"] is None


def test_missing_and_broken_files_are_refused_by_name(root):
    with pytest.raises(ValueError, match=r"absent\.txt: no such image set"):
        read(root, "absent")
    (root / "Annotations/000005.xml").write_text("<annotation><size></annotation>")
    with pytest.raises(ValueError, match=r"000005\.xml: not a VOC annotation"):
        read(root)
    for encoding in ("klingon", "gbk", "base64", "ascii"):
        xml = f'<?xml version="1.0" encoding="{encoding}"?><annotation><size>é</size></annotation>'
        (root / "Annotations/000005.xml").write_text(xml, "utf-8")
        with pytest.raises(ValueError, match=r"000005\.xml: not a VOC annotation"):
            read(root)
        with pytest.raises(ValueError, match=r"000005\.xml: not an? (XML|VOC)"):
            [split() for split in find_splits(root / "Annotations/000005.xml").values()]
    (root / "Annotations/000005.xml").unlink()
    with pytest.raises(ValueError, match=r"000005\.xml: not a VOC annotation"):
        read(root)


def test_a_list_in_another_encoding_is_named(root):
    (root / "ImageSets/Main/trainval.txt").write_bytes("café\n".encode("latin1"))
    with pytest.raises(ValueError, match=r"trainval\.txt: not a text in UTF-8"):
        read(root)
