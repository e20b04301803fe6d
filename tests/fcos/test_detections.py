"""What users do with the detections of an image."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops, ImageFont

from fcos import Detections
from fcos.drawing import class_colour, default_font, draw_boxes, drawable


@pytest.fixture
def found() -> Detections:
    """A cat in the upper left corner, a dog in the lower right one, and another cat."""
    return Detections(
        boxes=torch.tensor([[0.0, 0.0, 30.0, 20.0], [170.0, 90.0, 200.0, 100.0], [50, 40, 90, 80]]),
        scores=torch.tensor([0.9, 0.6, 0.3]),
        labels=torch.tensor([0, 1, 0]),
        names=["cat", "dog", "cat"],
        image=torch.full((3, 100, 200), 128, dtype=torch.uint8),
    )


def one_box(box: list[float], name: str, height: int, width: int) -> Detections:
    """A detection in a black image."""
    black = torch.zeros(3, height, width, dtype=torch.uint8)
    return Detections(torch.tensor([box]), torch.tensor([0.5]), torch.tensor([0]), [name], black)


@pytest.mark.parametrize(
    ("index", "names"),
    [
        (1, ["dog"]),
        (-1, ["cat"]),
        (slice(1, None), ["dog", "cat"]),
        ([2, 1], ["cat", "dog"]),
        ([False, True, False], ["dog"]),
        (np.array([False, True, True]), ["dog", "cat"]),
        (torch.tensor([1]), ["dog"]),
        (torch.tensor([0.9, 0.6, 0.3]) > 0.5, ["cat", "dog"]),
        (torch.zeros(3, dtype=torch.bool), []),
    ],
)
def test_indices_and_slices_choose_detections(
    found: Detections, index: object, names: list[str]
) -> None:
    chosen = found[index]  # type: ignore[index]
    assert chosen.names == names
    assert chosen.boxes.shape == (len(names), 4)
    assert chosen.image is found.image


@pytest.mark.parametrize("index", [3, [True, False], torch.tensor([5])])
def test_an_index_that_does_not_fit_is_an_error(found: Detections, index: object) -> None:
    with pytest.raises(IndexError):
        found[index]  # type: ignore[index]


def test_a_loop_gives_one_detection_at_a_time(found: Detections) -> None:
    assert [(one.names[0], len(one)) for one in found] == [("cat", 1), ("dog", 1), ("cat", 1)]


def test_repr_is_one_line(found: Detections) -> None:
    text = "Detections(3 in 200x100 pixels: cat 0.90, dog 0.60, cat 0.30)"
    assert repr(found) == text
    assert repr(found[:0]) == "Detections(0 in 200x100 pixels)"
    assert repr(found[[0, 0, 0, 0]]).endswith("cat 0.90, ...)")


def test_a_filter_names_classes_and_a_score(found: Detections) -> None:
    assert found.filter("cat").scores.tolist() == pytest.approx([0.9, 0.3])
    assert found.filter(["cat", "dog"], score_threshold=0.5).names == ["cat", "dog"]
    assert found.filter(score_threshold=0.5).names == ["cat", "dog"]
    assert len(found.filter([])) == 0
    with pytest.raises(ValueError, match="score_threshold must be from 0 to 1, not 50"):
        found.filter(score_threshold=50)
    with pytest.raises(TypeError, match="takes the names of classes, not 1"):
        found.filter([1])  # type: ignore[list-item]


def test_json_holds_the_dict(found: Detections) -> None:
    assert json.loads(found.to_json()) == found.to_dict()
    assert found[1].to_dict() == {
        "boxes": [[170.0, 90.0, 200.0, 100.0]],
        "scores": [pytest.approx(0.6)],
        "labels": [1],
        "names": ["dog"],
    }


def test_a_data_frame_has_a_row_per_detection(found: Detections) -> None:
    frame = found.to_pandas()
    assert list(frame) == ["x1", "y1", "x2", "y2", "score", "label", "name"]
    assert frame.loc[frame.name == "cat", "x2"].tolist() == [30.0, 90.0]
    assert list(found[:0].to_pandas()) == list(frame)


def test_coco_results_have_corner_and_size(found: Detections) -> None:
    assert found[1].to_coco(image_id=7) == [
        {
            "image_id": 7,
            "category_id": 2,
            "category": "dog",
            "bbox": [170.0, 90.0, 30.0, 10.0],
            "score": pytest.approx(0.6),
        }
    ]
    ids = [row["category_id"] for row in found.to_coco(category_ids=[17, 18])]
    assert ids == [17, 18, 17]


def test_supervision_gets_boxes_scores_and_names(
    found: Detections, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("supervision")
    theirs = found.to_supervision()
    assert np.array_equal(theirs.xyxy, found.boxes.numpy())
    assert theirs.class_id.tolist() == [0, 1, 0]
    assert theirs.data["class_name"].tolist() == ["cat", "dog", "cat"]
    assert len(found[:0].to_supervision()) == 0
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match=r"pip install 'fcos-zoo\[supervision\]'"):
        found.to_supervision()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16, torch.float64])
def test_images_of_every_type_are_drawn(dtype: torch.dtype) -> None:
    white = torch.full((3, 60, 80), 255 if dtype == torch.uint8 else 1, dtype=dtype)
    nothing = torch.zeros(0)
    drawn = Detections(torch.zeros(0, 4), nothing, nothing, [], white).draw()
    assert drawn.getextrema() == ((255, 255),) * 3


def test_notebooks_show_the_drawn_image(found: Detections) -> None:
    shown = Image.open(io.BytesIO(found._repr_png_()))
    assert shown.format == "PNG"
    assert ImageChops.difference(shown, found.draw()).getbbox() is None


@pytest.mark.parametrize("corner", [(0, 0), (190, 0), (0, 90), (190, 90)])
def test_labels_stay_inside_the_image(corner: tuple[int, int]) -> None:
    """A label that lost its right or lower part would have less of its colour."""

    def coloured_pixels(x: int, y: int) -> int:
        drawn = np.array(one_box([x, y, x + 9.0, y + 9.0], "giraffe", 100, 200).draw())
        return int((drawn == class_colour(0)).all(axis=-1).sum())

    hidden_by_label = 100  # the box may lie below its label
    assert coloured_pixels(*corner) >= coloured_pixels(80, 60) - hidden_by_label
    assert coloured_pixels(80, 60) > 3 * hidden_by_label
    assert one_box([0.0, 0, 3, 3], "giraffe", 4, 4).draw().size == (4, 4)  # of less than the label


def test_labels_do_not_cover_each_other() -> None:
    """Six objects at one place: the labels of all have all of their pixels."""
    image = Image.new("RGB", (400, 300))
    boxes = torch.tensor([[100.0 + i, 100.0 + i, 250.0 + i, 280.0] for i in range(6)])
    draw_boxes(image, boxes, torch.arange(6), ["giraffe"] * 6)
    drawn = np.array(image)
    for label in range(6):
        alone = Image.new("RGB", (400, 300))
        draw_boxes(alone, boxes[:1], torch.tensor([label]), ["giraffe"])
        background = (np.array(alone) == class_colour(label)).all(-1)[:100].sum()
        assert (drawn == class_colour(label)).all(-1).sum() > 0.9 * background > 300


def test_a_label_without_a_free_place_is_left_out() -> None:
    once, often = Image.new("RGB", (70, 20)), Image.new("RGB", (70, 20))
    boxes = torch.tensor([[2.0, 2.0, 60.0, 18.0]]).repeat(5, 1)
    draw_boxes(once, boxes[:1], torch.zeros(1).long(), ["giraffe"])
    draw_boxes(often, boxes, torch.zeros(5).long(), ["giraffe"] * 5)
    assert ImageChops.difference(once, often).getbbox() is None


@pytest.mark.parametrize("name", ["two\nlines", "bell\x07", "\udcff", "長颈鹿", "žirafa"])
def test_names_of_any_characters_are_drawn(name: str) -> None:
    image = Image.new("RGB", (200, 100))
    draw_boxes(image, torch.tensor([[50.0, 50.0, 150.0, 90.0]]), torch.tensor([0]), [name])
    assert image.getbbox() is not None
    font = ImageFont.truetype(default_font(), 11)
    assert drawable("a\nb 長 ž жираф καμ", font) == "a?b ? ž жираф καμ"


def test_an_image_too_wide_for_jpeg_is_saved_as_png(tmp_path: Path) -> None:
    wide = one_box([60000.0, 0, 69000, 3], "train", 4, 70000)
    written = wide.save(tmp_path / "wide.jpg")
    assert [path.name for path in tmp_path.iterdir()] == [written.name] == ["wide.png"]
    with Image.open(written) as image:
        assert image.size == (70000, 4)
    assert wide[:0].save(tmp_path / "wide.bmp").suffix == ".bmp"


def test_lines_grow_with_the_image() -> None:
    drawn = np.array(one_box([1000.0, 800, 1800, 1600], "cat", 2000, 4000).draw())
    left_side = (drawn[1500, 1000:1100] == class_colour(0)).all(axis=-1)
    assert left_side.sum() == 10
