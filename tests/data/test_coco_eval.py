"""COCO's figures: pycocotools' own, for the images asked, with its traps avoided."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fcos.coco_eval import FIGURES, evaluate_detections, to_coco_results
from fcos.data.check import LEFT_OUT, check

EMBEDDED = Path(__file__).parents[2] / "benchmarks/data/coco_val_ccby/annotations.json"


@pytest.fixture(scope="module")
def detections() -> list[dict]:
    """Jittered ground truth, some of it lost and some of the wrong class."""
    rng = np.random.default_rng(0)
    content = json.loads(EMBEDDED.read_bytes())
    categories = [category["id"] for category in content["categories"]]
    return [
        {
            "image_id": thing["image_id"],
            "category_id": int(rng.choice(categories))
            if rng.random() < 0.1
            else thing["category_id"],
            "bbox": (np.array(thing["bbox"]) * rng.uniform(0.9, 1.1, 4)).tolist(),
            "score": float(rng.random()),
        }
        for thing in content["annotations"]
        if rng.random() < 0.8
    ]


def test_metrics_equal_those_of_pycocotools(detections, tmp_path, capsys):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(EMBEDDED))
        reference = COCOeval(truth, truth.loadRes([dict(d) for d in detections]), "bbox")
        reference.evaluate()
        reference.accumulate()
        reference.summarize()
    figures = evaluate_detections(detections, EMBEDDED)
    assert [figures[name] for name in FIGURES] == reference.stats.tolist()
    assert 0.2 < figures["AP"] < 0.9
    assert figures["images"] == 31
    (tmp_path / "results.json").write_text(json.dumps(detections))
    assert evaluate_detections(tmp_path / "results.json", EMBEDDED) == figures
    assert capsys.readouterr().out == ""


def test_ap_is_the_mean_over_the_classes_that_have_objects(detections):
    figures = evaluate_detections(detections, EMBEDDED)
    assert len(figures["per_class"]) == 80
    classes = [ap for ap in figures["per_class"].values() if ap is not None]
    assert len(classes) < 80
    assert figures["AP"] == pytest.approx(np.mean(classes))
    nothing = evaluate_detections([], EMBEDDED)
    assert (nothing["AP"], nothing["AR100"]) == (0, 0)


def test_a_subset_of_images_is_measured_as_if_there_were_no_others(detections):
    content = json.loads(EMBEDDED.read_bytes())
    chosen = [image["id"] for image in content["images"][:9]]
    part = {
        **content,
        "images": content["images"][:9],
        "annotations": [t for t in content["annotations"] if t["image_id"] in chosen],
    }
    few = [d for d in detections if d["image_id"] in chosen]
    assert evaluate_detections(detections, EMBEDDED, image_ids=chosen) == evaluate_detections(
        few, part
    )


def square(**fields) -> dict:
    return {"image_id": 1, "category_id": 1, "bbox": [10, 10, 40, 40], **fields}


def truth(*things: dict) -> dict:
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 99, "width": 99} for i in (1, 2)],
        "annotations": list(things),
        "categories": [{"id": 1, "name": "thing"}, {"id": 2, "name": "other"}],
    }


def test_figures_without_objects_are_none():
    content = truth(square(id=5))
    figures = evaluate_detections([square(score=1.0)], content)
    assert figures["AP"] == figures["APm"] == pytest.approx(1)
    assert figures["APs"] is figures["APl"] is None
    assert figures["per_class"] == {"thing": pytest.approx(1), "other": None}
    content["categories"][1]["name"] = "thing"
    per_class = evaluate_detections([square(score=1.0)], content)["per_class"]
    assert per_class == {"thing (category 1)": pytest.approx(1), "thing (category 2)": None}


@pytest.mark.parametrize(
    ("other", "result"),
    [
        # Two objects of the id 0, which COCOeval takes for one that was not detected.
        ({"bbox": [60, 60, 30, 30]}, {"bbox": [60, 60, 30, 30]}),
        # A crowd region does not count against a detector.
        ({"bbox": [60, 0, 30, 99], "iscrowd": 1}, {"bbox": [62, 20, 20, 20]}),
    ],
)
def test_object_ids_may_repeat_and_crowds_do_not_count(other, result):
    things = [square(id=0), square(id=0, **other)]
    results = [square(score=0.5), square(score=0.9, **result)]
    assert evaluate_detections(results, truth(*things))["AP"] == pytest.approx(1)


@pytest.mark.parametrize(
    "field",
    [
        *({"area": area} for area in (None, "400", [], {}, float("nan"), -1, 10**400)),
        *({"iscrowd": flag} for flag in (None, "0", False, 0.0)),
        {"segmentation": 5},
        {"ignore": "x"},
    ],
)
def test_other_fields_of_an_object_do_not_matter(field):
    figures = evaluate_detections([square(score=1.0)], truth(square(**field)))
    assert figures["AP"] == figures["APm"] == pytest.approx(1)


@pytest.mark.parametrize(
    "field",
    [
        *({"image_id": value} for value in ([1], {}, "one", None, float("nan"), 10**400)),
        *({"category_id": value} for value in ([1], {}, "one", None, 99)),
        *({"iscrowd": flag} for flag in ("yes", [1], {}, 2, float("nan"))),
        *({"bbox": box} for box in ("1234", {}, 5, None, [1e300] * 4, [[0]] * 4)),
        *({"bbox": [0, 0, side, 9]} for side in (10**400, float("nan"))),
    ],
)
def test_evaluation_leaves_out_exactly_what_training_and_check_leave_out(tmp_path, field):
    for number in (1, 2):
        Image.new("RGB", (99, 99)).save(tmp_path / f"{number}.jpg")
    annotations = truth(square(), square(**field))
    figures = evaluate_detections([square(score=1.0)], annotations)
    assert figures["AP"] == pytest.approx(1)
    (finding,) = (
        f
        for f in check(annotations, tmp_path).findings
        if f.outcome == LEFT_OUT and f.kind != "image without objects"
    )
    assert finding.where in ("1.jpg", "annotations[1]")


FORM = "a detection must have image_id, category_id, bbox"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": 3}, "on image 3, which the annotations do not have"),
        ({"category_id": 9}, "of category 9 on image 1; .* 2 categories"),
        ({"score": float("nan")}, "not finite"),
        ({"bbox": [0, 0, float("inf"), 5]}, "not finite"),
        ({"bbox": [9, 9, -4, 4]}, "negative side"),
        ({"image_id": [1]}, FORM),
        ({"score": None}, FORM),
        ({"bbox": None}, FORM),
        ({"bbox": [1, 2, 3]}, FORM),
        ({"bbox": ["1", 2, 3, 4]}, FORM),
    ],
)
def test_impossible_detections_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        evaluate_detections([square(score=1.0) | changes], truth(square()))


@pytest.mark.parametrize("detection", ["box", square(), {"bbox": [1, 2, 3, 4], "score": 1.0}])
def test_detections_without_a_field_are_refused(detection):
    with pytest.raises(ValueError, match=FORM):
        evaluate_detections([detection], truth(square()))


def test_unknown_image_ids_are_refused():
    with pytest.raises(ValueError, match="the annotations do not have image 7"):
        evaluate_detections([], truth(square(id=1)), image_ids=[1, 7])
    with pytest.raises(ValueError, match="no image to evaluate on"):
        evaluate_detections([], truth(square(id=1)), image_ids=[])


def test_results_are_not_rounded_and_go_back_to_the_files_categories():
    boxes = torch.tensor([[0.1, 0.2, 10.3, 20.4]])
    (result,) = to_coco_results(42, boxes, torch.tensor([1 / 3]), torch.tensor([1]), (3, 7))
    assert (result["image_id"], result["category_id"]) == (42, 7)
    assert result["score"] == torch.tensor(1 / 3).item()
    x1, y1, x2, y2 = boxes.double()[0].tolist()
    assert result["bbox"] == [x1, y1, x2 - x1, y2 - y1]
    whole = torch.tensor([[0.0, 0, 9, 19]])  # boxes that end on their last pixel
    (result,) = to_coco_results(1, whole, torch.ones(1), torch.zeros(1).long(), (3,), plus_one=True)
    assert result["bbox"] == [0, 0, 10, 20]


def crowd(count):
    """The annotations of an image of many objects, and a detection of each."""
    boxes = [[10 * (i % 20), 10 * (i // 20), 8, 8] for i in range(count)]
    keys = {"image_id": 1, "category_id": 1}
    truth = {
        "images": [{"id": 1, "file_name": "1.png", "height": 200, "width": 200}],
        "categories": [{"id": 1, "name": "circle"}],
        "annotations": [
            {**keys, "id": i, "bbox": box, "iscrowd": 0, "area": 64}
            for i, box in enumerate(boxes, 1)
        ],
    }
    found = [{**keys, "bbox": box, "score": 1 - n / 1000} for n, box in enumerate(boxes)]
    return truth, found


def test_more_objects_than_coco_counts_need_another_limit():
    truth, perfect = crowd(300)
    assert evaluate_detections(perfect, truth)["AP"] == pytest.approx(0.337, abs=1e-3)
    assert evaluate_detections(perfect, truth, max_detections=300)["AP"] == 1


@pytest.mark.parametrize("limit", [1, 5])
def test_a_limit_below_ten_counts_no_more(limit):
    truth, perfect = crowd(30)
    limited = evaluate_detections(perfect, truth, max_detections=limit)
    assert limited["AP"] == evaluate_detections(perfect[:limit], truth)["AP"]
    assert limited["AR10"] == limited["AR100"] == pytest.approx(limit / 30)


def test_another_limit_of_detections_agrees_where_it_is_not_reached():
    truth, detections = crowd(30)
    for number, row in enumerate(detections):
        row["bbox"] = [*row["bbox"][:3], 7 - number % 4]
    coco = evaluate_detections(detections, truth)
    more = evaluate_detections(detections, truth, None, "pycocotools", 200)
    assert 0 < coco["AP"] < 1
    assert more["per_class"] == coco["per_class"]
    assert {key: more[key] for key in FIGURES} == pytest.approx({key: coco[key] for key in FIGURES})
