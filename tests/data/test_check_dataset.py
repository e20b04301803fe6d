"""The dataset check reports what training would refuse, leave out or correct."""

import numpy as np
import pytest
from PIL import Image

from fcos.data.check import ASSUMED, Finding, check
from fcos.data.dataset import CocoDataset
from fcos.image_io import ORIENTATION

BOX = [2, 2, 9, 9]


def annotations(names, *objects):
    """Images of 50x40 pixels, numbered from 0, and objects (image, box) of the first class."""
    return {
        "images": [
            {"id": i, "file_name": name, "height": 40, "width": 50} for i, name in enumerate(names)
        ],
        "annotations": [{"image_id": i, "category_id": 1, "bbox": box} for i, box in objects],
        "categories": [{"id": 1, "name": "thing"}, {"id": 2, "name": "nothing"}],
    }


def test_every_finding_names_its_file(tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8))
    picture.save(tmp_path / "good.jpg")
    picture.convert("L").save(tmp_path / "grey.jpg")
    picture.convert("CMYK").save(tmp_path / "cmyk.jpg")
    picture.resize((9, 9)).save(tmp_path / "size.jpg")
    Image.fromarray(np.full((40, 50), 9000, np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(np.full((40, 50), 4000, np.uint16)).save(tmp_path / "12.png")
    Image.fromarray(np.full((40, 50), 200, np.int32)).save(tmp_path / "8.tiff")
    exif = Image.Exif()
    exif[ORIENTATION] = 3
    picture.save(tmp_path / "exif.jpg", exif=exif)
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "good.jpg").read_bytes()[:300])
    names = ["good.jpg", "grey.jpg", "cmyk.jpg", "size.jpg", "deep.png", "exif.jpg", "cut.jpg"]
    names += ["12.png", "8.tiff", "absent.jpg"]
    objects = [(i, BOX) for i in range(len(names) - 1)]
    report = check(annotations(names, *objects, (0, [45, 30, 20, 20])), tmp_path)
    assert not report.ok
    assert (report.images, report.objects, report.classes) == (9, 10, ("thing", "nothing"))
    assert report.counts == {
        "image missing": 1,
        "image unreadable": 1,
        "image of another size": 1,
        "greyscale image": 1,
        "CMYK image": 1,
        "16-bit image": 1,
        "12-bit values": 1,
        "8-bit values in a wider type": 1,
        "rotated by EXIF": 1,
        "box clipped": 1,
        "class without objects": 1,
    }
    details = {f.kind: f.detail for f in report.findings if f.outcome == ASSUMED}
    assert details == {
        "12-bit values": "mode I;16, values up to 4000",
        "8-bit values in a wider type": "mode I, values up to 200",
    }
    refused = {finding.kind: finding for finding in report.findings if finding.refused}
    assert refused["image missing"].where == "absent.jpg"
    assert refused["image unreadable"].where == str(tmp_path / "cut.jpg")
    assert "9x9, its annotations say 50x40" in refused["image of another size"].detail
    assert Finding("box clipped", "good.jpg") in report.findings


def test_repetitions_are_reported(tmp_path):
    Image.new("RGB", (50, 40)).save(tmp_path / "a.png")
    content = annotations(["a.png", "a.png"], (0, BOX), (0, BOX), (1, [3, 3, 9, 9]))
    content["annotations"] = [{**row, "id": 5} for row in content["annotations"]]
    content["categories"][1]["name"] = "thing"
    report = check(content, tmp_path)
    assert report.ok
    assert report.counts == {
        "class without objects": 1,
        "class name used twice": 1,
        "file listed twice": 1,
        "annotation id used twice": 1,
        "object listed twice": 1,
    }
    assert Finding("object listed twice", "a.png", "box [2, 2, 9, 9]") in report.findings


def test_a_dataset_without_an_object_is_refused_as_training_refuses_it(tmp_path):
    Image.new("RGB", (50, 40)).save(tmp_path / "a.png")
    content = annotations(["a.png"], (0, [60, 2, 9, 9]))
    report = check(content, tmp_path)
    assert not report.ok
    assert report.counts["nothing to train on"] == 1
    with pytest.raises(ValueError, match="has an object to train on"):
        CocoDataset(content, tmp_path)
