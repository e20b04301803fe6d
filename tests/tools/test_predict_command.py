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
from tools.outputs import category_ids, drawn_names, image_ids
from tools.sources import Source
from tools.video import VideoWriter
from zoo.golden import Fixture

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = "FCOS_syncbn_bs32_c128_MNV2_FPN_1x"
PHOTOGRAPH = REPOSITORY / "benchmarks" / "data" / "coco_val_ccby" / "images" / "000000062554.jpg"

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FCOS_ZOO_OFFLINE", "1")
    monkeypatch.setenv("FCOS_ZOO_HOME", str(tmp_path / "home"))


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> Detector:
    """What `zoo.get` gives: an entry with random weights and a small test size."""
    state = Fixture(REPOSITORY / "tests" / "golden" / f"{SMALL}.json").state_dict()
    detector = zoo.build(SMALL).eval()
    zoo.load_checkpoint(detector, state)
    detector.resize = ShortestSide(64, 96)
    monkeypatch.setattr(zoo, "get", lambda *_, **__: detector)
    return detector


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of two small photographs and a text file."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    with Image.open(PHOTOGRAPH) as photograph:
        photograph.resize((128, 86)).save(folder / "000000000042.jpg")
        photograph.resize((86, 128)).save(folder / "upright[a].png")
    (folder / "notes.txt").write_text("no picture")
    return folder


def write_video(path: Path, picture: Path, frames: int) -> None:
    writer = VideoWriter(path, Fraction(10))
    with Image.open(picture) as image:
        for _ in range(frames):
            writer.write(image)
    writer.close()


def results_of(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "results.json").read_text())


def test_predict_draws_and_writes_coco_results(
    capsys: Capture, tmp_path: Path, pictures: Path
) -> None:
    weights, out = tmp_path / "published.pth", tmp_path / "out"
    fixture = Fixture(REPOSITORY / "tests" / "golden" / f"{SMALL}.json")
    torch.save({"model": fixture.state_dict()}, weights)
    picture = pictures / "000000000042.jpg"
    arguments = [str(picture), "--weights", str(weights), "--out", str(out), "--device", "cpu"]
    assert main(["predict", SMALL, *arguments, "--score-threshold", "0.1"]) == 0
    assert "1 images and results.json" in capsys.readouterr().out
    with Image.open(out / picture.name) as drawn:
        assert drawn.size == (128, 86)
    rows = results_of(out)
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
def test_predict_takes_folders_and_globs_each_image_once(
    capsys: Capture, tmp_path: Path, pictures: Path
) -> None:
    out = tmp_path / "out"
    arguments = [str(pictures), str(pictures / "*.jpg"), "--out", str(out)]
    assert main(["predict", SMALL, *arguments, "--score-threshold", "0.1"]) == 0
    printed = capsys.readouterr().out
    assert "2 images" in printed
    assert str(pictures / "upright[a].png") in printed
    assert sorted(p.name for p in out.iterdir()) == [
        "000000000042.jpg",
        "results.json",
        "upright[a].jpg",
    ]
    assert {row["image_id"] for row in results_of(out)} == {42, "upright[a].png"}


@pytest.mark.usefixtures("fast")
def test_predict_looks_at_every_image_more_than_once(tmp_path: Path, pictures: Path) -> None:
    picture = str(pictures / "000000000042.jpg")
    found = []
    for more in ([], ["--multi-scale"]):
        arguments = [picture, "--out", str(tmp_path / "out"), "--score-threshold", "0.1"]
        assert main(["predict", SMALL, *arguments, *more]) == 0
        found.append({tuple(row["bbox"]) for row in results_of(tmp_path / "out")})
    assert found[1] - found[0]


@pytest.mark.usefixtures("fast")
def test_an_unreadable_image_stops_no_other(
    capsys: Capture, tmp_path: Path, pictures: Path
) -> None:
    (pictures / "000000000000.jpg").write_text("not a picture")
    out = tmp_path / "out"
    assert main(["predict", SMALL, str(pictures), "--out", str(out), "--score-threshold", "0"]) == 1
    printed = capsys.readouterr().out
    assert "2 images and results.json" in printed
    assert "000000000000.jpg: not a readable image" in printed
    assert {row["image_id"] for row in results_of(out)} == {42, "upright[a].png"}


def test_results_are_kept_when_interrupted(
    fast: Detector, tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detect = fast.detect

    def interrupted(images: list[torch.Tensor], *options: Any) -> Any:
        if images[0].shape[1] > images[0].shape[2]:
            raise KeyboardInterrupt
        return detect(images, *options)

    monkeypatch.setattr(fast, "detect", interrupted)
    out = tmp_path / "out"
    arguments = [str(pictures), "--out", str(out), "--score-threshold", "0.1"]
    assert main(["predict", SMALL, *arguments]) == 130
    assert {row["image_id"] for row in results_of(out)} == {42}


def test_category_ids_are_the_datasets_only_for_its_own_classes() -> None:
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
def test_every_result_names_its_file(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("A/001.jpg", "B/001.jpg", "1.jpg")]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        with Image.open(PHOTOGRAPH) as photograph:
            photograph.resize((128, 86)).save(file)
    out = tmp_path / "out"
    arguments = [*map(str, files), "--out", str(out), "--score-threshold", "0.1"]
    assert main(["predict", SMALL, *arguments]) == 0
    ids = {row["file_name"]: row["image_id"] for row in results_of(out)}
    assert list(ids) == list(map(str, files))
    assert len(set(ids.values())) == 3


@pytest.mark.usefixtures("fast")
def test_csv_and_yolo_files_agree_with_the_results(tmp_path: Path, pictures: Path) -> None:
    out = tmp_path / "out"
    arguments = [str(pictures), "--out", str(out), "--score-threshold", "0.1"]
    assert main(["predict", SMALL, *arguments, "--save", "csv,yolo"]) == 0
    results = results_of(out)
    with (out / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [row["file_name"] for row in results]
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
    capsys: Capture, fast: Detector, tmp_path: Path, pictures: Path
) -> None:
    everything = fast.detect(pictures / "000000000042.jpg")[0]
    name = everything.names[-1]
    out = tmp_path / "out"
    common = ["predict", SMALL, str(pictures / "000000000042.jpg"), "--out", str(out)]
    arguments = ["--score-threshold", "0", "--classes", name, "--max-detections", "1"]
    assert main([*common, *arguments]) == 0
    best = everything.filter(name)[0]
    assert [(row["category"], row["score"]) for row in results_of(out)] == [
        (name, pytest.approx(float(best.scores)))
    ]
    assert main([*common, "--classes", "person,dgo"]) == 1
    assert "the model has no class 'dgo': did you mean dog?" in capsys.readouterr().err


@pytest.mark.usefixtures("fast")
def test_a_file_name_cannot_control_the_terminal(capsys: Capture, tmp_path: Path) -> None:
    file = tmp_path / "[red]a\x1b[31m.png"
    Image.new("RGB", (64, 48)).save(file)
    assert main(["predict", SMALL, str(file), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert r"[red]a\x1b[31m.png: " in printed
    assert "\x1b" not in printed


@pytest.mark.usefixtures("fast")
def test_an_image_that_cannot_be_written_stops_no_other(
    capsys: Capture, tmp_path: Path, pictures: Path
) -> None:
    out = tmp_path / "out"
    (out / "000000000042.jpg").mkdir(parents=True)
    arguments = [str(pictures), "--out", str(out), "--score-threshold", "0.1"]
    assert main(["predict", SMALL, *arguments]) == 1
    assert "000000000042.jpg: cannot be drawn or written" in capsys.readouterr().out
    assert (out / "upright[a].jpg").exists()
    assert {row["image_id"] for row in results_of(out)} == {42, "upright[a].png"}


@pytest.mark.usefixtures("fast")
def test_an_image_too_wide_for_jpeg_becomes_a_png(tmp_path: Path) -> None:
    Image.new("RGB", (70000, 8)).save(tmp_path / "wide.png")
    out = tmp_path / "out"
    assert main(["predict", SMALL, str(tmp_path / "wide.png"), "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["results.json", "wide.png"]


@pytest.mark.usefixtures("fast")
def test_every_frame_of_an_animation_is_drawn_and_named(
    capsys: Capture, tmp_path: Path, pictures: Path
) -> None:
    with Image.open(pictures / "000000000042.jpg") as photograph:
        flipped = photograph.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        photograph.save(tmp_path / "two.gif", save_all=True, append_images=[flipped])
    out = tmp_path / "out"
    arguments = [str(tmp_path / "two.gif"), "--out", str(out), "--batch-size", "2"]
    assert main(["predict", SMALL, *arguments, "--score-threshold", "0.1"]) == 0
    assert sorted(path.name for path in (out / "two").iterdir()) == ["000000.jpg", "000001.jpg"]
    assert {(row["image_id"], row["frame"]) for row in results_of(out)} == {
        ("two.gif#0", 0),
        ("two.gif#1", 1),
    }
    printed = capsys.readouterr().out
    assert "two.gif frame 1: " in printed
    assert re.search(r"2 images in .* images/s: .* reading, .* detecting, .* writing", printed)


@pytest.mark.usefixtures("fast")
def test_a_video_is_annotated(tmp_path: Path, pictures: Path) -> None:
    av = pytest.importorskip("av")
    clip = tmp_path / "clip.mp4"
    write_video(clip, pictures / "000000000042.jpg", frames=5)
    out = tmp_path / "out"
    arguments = [str(clip), "--out", str(out), "--batch-size", "2", "--score-threshold", "0.1"]
    assert main(["predict", SMALL, *arguments, "--save", "yolo"]) == 0
    with av.open(str(out / "clip.mp4")) as annotated:
        stream = annotated.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate) == (128, 86, 10)
        assert len(list(annotated.decode(stream))) == 5
    assert {row["frame"] for row in results_of(out)} == set(range(5))
    assert len(list((out / "labels" / "clip").iterdir())) == 5


@pytest.mark.usefixtures("fast")
def test_tiles_find_more(tmp_path: Path, pictures: Path) -> None:
    out = tmp_path / "out"
    common = ["predict", SMALL, str(pictures / "000000000042.jpg"), "--out", str(out)]
    counts = []
    for more in ([], ["--slice", "200"], ["--slice", "48"]):
        assert main([*common, "--score-threshold", "0.1", *more]) == 0
        counts.append(len(results_of(out)))
    assert counts[0] == counts[1] < counts[2]
