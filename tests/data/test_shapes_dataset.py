"""The drawn dataset: reproducible, exact, and made of what training has to cope with."""

import json
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fcos.data.check import check
from fcos.data.dataset import CocoDataset
from fcos.data.shapes import OUTLINES, draw, write


def test_the_same_seed_draws_the_same_images(tmp_path):
    first = write(tmp_path / "a", count=4, seed=1, size=96)
    again = write(tmp_path / "b", count=4, seed=1, size=96)
    other = write(tmp_path / "c", count=4, seed=2, size=96)
    assert first.read_bytes() == again.read_bytes() != other.read_bytes()
    for i in range(1, 5):
        name = f"images/{i:06d}.jpg"
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    few, many = json.loads(first.read_bytes()), write(tmp_path / "d", count=6, seed=1, size=96)
    things = json.loads(many.read_bytes())["annotations"]  # of two more images
    assert few["annotations"] == things[: len(few["annotations"])]


def test_concurrent_jobs_share_one_set(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: write(tmp_path, count=5, size=64), range(4)))
    assert set(found) == {tmp_path / "annotations.json"}
    assert check(found[0], tmp_path / "images").ok
    assert found[0].read_bytes() == write(tmp_path / "alone", count=5, size=64).read_bytes()


def test_boxes_are_the_exact_extent_of_visible_pixels():
    scenes = (draw(random.Random(number), 96, ["square"], most=1) for number in range(50))
    scene = next(scene for scene in scenes if len(scene.boxes) == 1)
    # The painted pixels have one colour: that of the box's centre.
    x1, y1, x2, y2 = scene.boxes[0]
    pixels = np.asarray(scene.image)
    painted = (pixels == pixels[(y1 + y2) // 2, (x1 + x2) // 2]).all(axis=2)
    rows, columns = np.flatnonzero(painted.any(axis=1)), np.flatnonzero(painted.any(axis=0))
    assert [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] == scene.boxes[0].tolist()
    assert painted.sum() == scene.areas[0]


def test_it_has_occlusion_crowding_scale_and_empty_images():
    scenes = [draw(random.Random(i), 160) for i in range(60)]
    boxes = [scene.boxes.astype(float) for scene in scenes]
    assert any(len(b) == 0 for b in boxes)
    sides = np.concatenate(boxes)[:, 2:] - np.concatenate(boxes)[:, :2]
    assert sides.min() < 16
    assert sides.max() > 60
    touching = sum(
        bool((np.minimum(a[2:], b[2:]) > np.maximum(a[:2], b[:2])).all())
        for image in boxes
        for i, a in enumerate(image)
        for b in image[:i]
    )
    assert touching > 30
    shapes = {scene.image.size for scene in scenes}
    assert any(w > h for w, h in shapes)
    assert any(w < h for w, h in shapes)


def test_it_is_a_clean_coco_dataset_of_any_classes(tmp_path):
    path = write(tmp_path, count=12, seed=3, size=96, classes=["star", "cross", "arrow"], most=6)
    report = check(path, tmp_path / "images")
    assert report.ok
    assert set(report.counts) <= {"image without objects"}
    dataset = CocoDataset(path, tmp_path / "images")
    assert dataset.classes == ("star", "cross", "arrow")
    assert set(dataset.labels.tolist()) == {0, 1, 2}


def test_a_finished_folder_is_kept_and_another_one_refused(tmp_path):
    path = write(tmp_path, count=2, size=64)
    written = path.stat().st_mtime_ns
    assert write(tmp_path, count=2, size=64).stat().st_mtime_ns == written
    with pytest.raises(FileExistsError, match="other arguments"):
        write(tmp_path, count=3, size=64)
    path.unlink()  # as after a run that was killed
    assert write(tmp_path, count=3, size=64) == path


def test_an_unknown_class_is_refused(tmp_path):
    with pytest.raises(ValueError, match=f"'ring'; there are {', '.join(OUTLINES)}"):
        write(tmp_path, count=1, classes=["ring"])
