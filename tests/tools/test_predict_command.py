"""`fcos-zoo predict`: what it reads, what it writes, and what it survives."""

from __future__ import annotations

import csv
import json
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import zoo
from fcos import Detector, ShortestSide
from tools.cli import main
from tools.outputs import VideoWriter, category_ids, drawn_names, image_ids
from tools.sources import Source
from zoo.golden import Fixture

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = "FCOS_syncbn_bs32_c128_MNV2_FPN_1x"
PHOTOGRAPH = REPOSITORY / "benchmarks" / "data" / "coco_val_ccby" / "images" / "000000062554.jpg"

BOTH = {42, "portrait[a].png"}  # the ids of the two images

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FCOS_ZOO_OFFLINE", "1")
    monkeypatch.setenv("FCOS_ZOO_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    """A checkpoint with random weights, under its published keys."""
    return Fixture(REPOSITORY / "tests" / "golden" / f"{SMALL}.json").state_dict()


@pytest.fixture(scope="module")
def detector(published: dict[str, torch.Tensor]) -> Detector:
    detector = zoo.build(SMALL)
    zoo.load_checkpoint(detector, published)
    detector.resize = ShortestSide(64, 96)
    return detector.fuse()


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch, detector: Detector) -> Detector:
    """What `zoo.get` returns: a detector with random weights and a small test size."""
    monkeypatch.setattr(zoo, "get", lambda *_, **__: detector)
    return detector


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of two small photographs and a text file."""
    folder = tmp_path / "images"
    folder.mkdir()
    with Image.open(PHOTOGRAPH) as photograph:
        photograph.resize((128, 86)).save(folder / "000000000042.jpg")
        photograph.resize((86, 128)).save(folder / "portrait[a].png")
    (folder / "notes.txt").write_text("not an image")
    return folder


def predict(out: Path, *arguments: object, code: int = 0) -> list[dict[str, Any]]:
    """Run the command at a low threshold; returns the results that it wrote."""
    words = [*map(str, arguments), "--out", str(out)]
    assert main(["predict", SMALL, "--score-threshold", "0.1", *words]) == code
    return json.loads((out / "results.json").read_text())


def write_video(path: Path, picture: Path, frames: int) -> None:
    writer = VideoWriter(path, Fraction(10))
    with Image.open(picture) as image:
        for _ in range(frames):
            writer.write(image)
    writer.close()


def test_boxes_are_drawn_and_written_in_coco_s_format(
    capsys: Capture, tmp_path: Path, images: Path, published: dict[str, torch.Tensor]
) -> None:
    weights, out = tmp_path / "published.pth", tmp_path / "out"
    torch.save({"model": published}, weights)
    rows = predict(out, images / "000000000042.jpg", "--weights", weights, "--device", "cpu")
    assert "1 image and results.json" in capsys.readouterr().out
    with Image.open(out / "000000000042.jpg") as drawn:
        assert drawn.size == (128, 86)
    assert rows
    for row in rows:
        assert row["image_id"] == 42
        assert row["category_id"] in zoo.card(SMALL).config["category_ids"]
        assert row["score"] >= 0.1
        x, y, width, height = row["bbox"]
        assert min(x, y, width, height) >= 0
        assert x + width <= 128 + 1  # this system counts the last pixel
        assert y + height <= 86 + 1


@pytest.mark.usefixtures("fast")
def test_folders_and_globs_are_read_each_image_once(
    capsys: Capture, tmp_path: Path, images: Path
) -> None:
    rows = predict(tmp_path / "out", images, images / "*.jpg")
    printed = capsys.readouterr().out
    assert "2 images" in printed
    assert str(images / "portrait[a].png") in printed
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["000000000042.jpg", "portrait[a].jpg", "results.json"]
    assert {row["image_id"] for row in rows} == BOTH


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("option", [["--multi-scale"], ["--slice", "48"]])
def test_more_copies_or_tiles_give_more_boxes(
    tmp_path: Path, images: Path, option: list[str]
) -> None:
    image = images / "000000000042.jpg"
    one = {tuple(row["bbox"]) for row in predict(tmp_path / "out", image)}
    more = {tuple(row["bbox"]) for row in predict(tmp_path / "out", image, *option)}
    assert more - one
    whole = predict(tmp_path / "out", image, "--slice", "200")  # larger than the image
    assert {tuple(row["bbox"]) for row in whole} == one


def test_winograd_is_an_option_of_the_detector(
    detector: Detector, tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(zoo, "get", lambda *_, **options: asked.update(options) or detector)
    predict(tmp_path / "out", images, "--winograd")
    assert asked["winograd"] is True
    predict(tmp_path / "out", images)
    assert asked["winograd"] is False


@pytest.mark.usefixtures("fast")
def test_an_unreadable_image_does_not_stop_the_others(
    capsys: Capture, tmp_path: Path, images: Path
) -> None:
    (images / "000000000000.jpg").write_text("not an image")
    rows = predict(tmp_path / "out", images, code=1)
    printed = capsys.readouterr().out
    assert "2 images and results.json" in printed
    assert "000000000000.jpg: not a readable image" in printed
    assert {row["image_id"] for row in rows} == BOTH


@pytest.mark.usefixtures("fast")
def test_an_image_that_cannot_be_written_does_not_stop_the_others(
    capsys: Capture, tmp_path: Path, images: Path
) -> None:
    out = tmp_path / "out"
    (out / "000000000042.jpg").mkdir(parents=True)
    assert {row["image_id"] for row in predict(out, images, code=1)} == BOTH
    assert "000000000042.jpg: cannot be drawn or written" in capsys.readouterr().out
    assert (out / "portrait[a].jpg").exists()


def test_results_are_kept_when_interrupted(
    fast: Detector, tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detect = fast.detect

    def interrupted(images: list[torch.Tensor], *options: Any) -> Any:
        if images[0].shape[1] > images[0].shape[2]:
            raise KeyboardInterrupt
        return detect(images, *options)

    monkeypatch.setattr(fast, "detect", interrupted)
    assert {row["image_id"] for row in predict(tmp_path / "out", images, code=130)} == {42}


def test_category_ids_are_the_dataset_s_only_for_its_own_classes() -> None:
    assert category_ids(zoo.build(SMALL))[-1] == 90
    assert list(category_ids(zoo.build(SMALL, num_classes=3))) == [1, 2, 3]


def test_drawings_overwrite_neither_each_other_nor_an_input(tmp_path: Path) -> None:
    files = [tmp_path / "a.jpg", tmp_path / "a.png", tmp_path / "b" / "a.jpg"]
    sources = [Source(str(file), str(file), "image") for file in files]
    assert [str(name) for name in drawn_names(sources, tmp_path / "out")] == ["a", "a_2", "a_3"]
    assert [str(name) for name in drawn_names(sources, tmp_path)] == ["a_2", "a_3", "a_4"]


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["000000000042.jpg", "street.jpg"], [42, "street.jpg"]),
        (["A/001.jpg", "B/001.jpg", "1.jpg"], ["A/001.jpg", "B/001.jpg", "1.jpg"]),
        (["A/x.jpg", "B/x.jpg", "7.png"], ["A/x.jpg", "B/x.jpg", 7]),
        (["7.png", "7.jpg"], ["7.png", "7.jpg"]),
    ],
)
def test_an_image_id_is_the_number_of_a_file_if_no_other_has_it(
    names: list[str], ids: list[int | str]
) -> None:
    assert image_ids(names) == ids


@pytest.mark.usefixtures("fast")
def test_csv_and_yolo_files_agree_with_the_results(tmp_path: Path, images: Path) -> None:
    out = tmp_path / "out"
    results = predict(out, images, "--save", "csv,yolo")
    with (out / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [row["file_name"] for row in results]
    assert {row["file"] for row in rows} == {
        str(images / name) for name in ("000000000042.jpg", "portrait[a].png")
    }
    assert [float(row["score"]) for row in rows] == [row["score"] for row in results]
    classes = (out / "classes.txt").read_text().splitlines()
    lines = (out / "labels" / "000000000042.txt").read_text().splitlines()
    of_42 = [row for row in rows if row["file"].endswith("42.jpg")]
    for line, row in zip(lines, of_42, strict=True):
        label, x, y, width, height = line.split()
        assert classes[int(label)] == row["class"]
        assert (float(x) + float(width) / 2) * 128 == pytest.approx(float(row["x2"]), abs=0.01)
        assert (float(y) - float(height) / 2) * 86 == pytest.approx(float(row["y1"]), abs=0.01)


def test_only_some_classes_and_the_best_of_them(
    capsys: Capture, fast: Detector, tmp_path: Path, images: Path
) -> None:
    image = images / "000000000042.jpg"
    detections = fast.detect(image)[0]
    name = detections.names[-1]
    best = detections.filter(name)[0]
    options = ["--score-threshold", "0", "--classes", name, "--max-detections", "1"]
    (row,) = predict(tmp_path / "out", image, *options)
    assert (row["category"], row["score"]) == (name, pytest.approx(float(best.scores)))
    assert main(["predict", SMALL, str(image), "--classes", "person,dgo"]) == 1
    assert "the model has no class 'dgo': did you mean dog?" in capsys.readouterr().err


@pytest.mark.usefixtures("fast")
def test_a_file_name_cannot_control_the_terminal(capsys: Capture, tmp_path: Path) -> None:
    file = tmp_path / "[red]a\x1b[31m.png"
    Image.new("RGB", (64, 48)).save(file)
    predict(tmp_path / "out", file)
    printed = capsys.readouterr().out
    assert r"[red]a\x1b[31m.png: " in printed
    assert "\x1b" not in printed


@pytest.mark.usefixtures("fast")
def test_every_frame_of_an_animation_is_drawn_and_named(
    capsys: Capture, tmp_path: Path, images: Path
) -> None:
    with Image.open(images / "000000000042.jpg") as photograph:
        flipped = photograph.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        photograph.save(tmp_path / "two.gif", save_all=True, append_images=[flipped])
    rows = predict(tmp_path / "out", tmp_path / "two.gif", "--batch-size", "2")
    drawn = sorted(path.name for path in (tmp_path / "out" / "two").iterdir())
    assert drawn == ["000000.jpg", "000001.jpg"]
    assert {(row["image_id"], row["frame"]) for row in rows} == {("two.gif#0", 0), ("two.gif#1", 1)}
    printed = capsys.readouterr().out
    assert "two.gif frame 1: " in printed
    assert re.search(r"2 images in .* images/s: .* reading, .* detecting, .* writing", printed)


@pytest.mark.usefixtures("fast")
def test_a_video_is_annotated(tmp_path: Path, images: Path) -> None:
    av = pytest.importorskip("av")
    out, clip = tmp_path / "out", tmp_path / "clip.mp4"
    write_video(clip, images / "000000000042.jpg", frames=3)
    rows = predict(out, clip, "--batch-size", "2", "--save", "yolo")
    with av.open(str(out / "clip.mp4")) as annotated:
        stream = annotated.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate) == (128, 86, 10)
        assert len(list(annotated.decode(stream))) == 3
    assert {row["frame"] for row in rows} == set(range(3))
    assert len(list((out / "labels" / "clip").iterdir())) == 3
