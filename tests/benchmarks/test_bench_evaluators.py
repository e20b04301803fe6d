"""hotcoco counts what pycocotools counts: all figures to 1e-12, also of detections and objects
that are at the borders of COCO's rules."""

from __future__ import annotations

import sys
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from fcos.coco_eval import evaluate_detections

# The borders of COCO's area ranges, 32^2 and 96^2, with their neighbours.
SIDES = (16.0, 31.999, 32.0, 32.001, 95.999, 96.0, 96.0001, 300.0)
SHRINK = (1.0, 0.5, 0.55, 0.75, 0.95)  # boxes whose IoU with the object is a threshold of COCO's
SCORES = (0.0, 0.25, 1 / 3, 0.3, 0.1 + 0.2, 0.5, 1.0)
IMAGES, CATEGORIES = (1, 2, 7), (1, 3, 90)
OBJECT = {"image_id": 1, "category_id": 1, "bbox": [9, 9, 50, 50]}

pytest.importorskip("hotcoco", reason="needs the extra analysis")


def assert_same(results: list[dict[str, Any]], content: Any) -> dict[str, Any]:
    reference, fast = (
        evaluate_detections(results, content, backend=name) for name in ("pycocotools", "hotcoco")
    )
    for mine, theirs in ((fast, reference), (fast["per_class"], reference["per_class"])):
        assert mine.keys() == theirs.keys()
        for name in mine.keys() - {"per_class"}:
            close = mine[name] == theirs[name] or abs(mine[name] - theirs[name]) <= 1e-12
            assert close, (name, mine[name], theirs[name])
    return reference


def truth(*objects: dict[str, Any]) -> dict[str, Any]:
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 500, "width": 500} for i in IMAGES],
        "categories": [{"id": i, "name": f"class {i}"} for i in CATEGORIES],
        "annotations": list(objects),
    }


@st.composite
def objects_and_results(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Objects with crowds among them, and boxes at COCO's borders and thresholds with tied scores,
    some of the wrong class and some on objects that are found already."""
    objects: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(0, 12))):
        side = draw(st.sampled_from(SIDES))
        x, y = (draw(st.integers(0, 200)) for _ in "xy")
        where = {"image_id": draw(st.sampled_from(IMAGES))}
        where["category_id"] = draw(st.sampled_from(CATEGORIES))
        thing = {**where, "bbox": [x, y, side, side], "iscrowd": int(draw(st.integers(0, 3)) == 3)}
        if draw(st.booleans()):  # as of a mask, smaller than its box
            thing["area"] = side * side * draw(st.sampled_from((1.0, 0.999999, 0.7)))
        objects.append(thing)
        for _ in range(draw(st.integers(0, 3))):
            box = [x, y, side * draw(st.sampled_from(SHRINK)), side]
            found = {**where, "bbox": box, "score": draw(st.sampled_from(SCORES))}
            if draw(st.integers(0, 5)) == 5:
                found["category_id"] = draw(st.sampled_from(CATEGORIES))
            results.append(found)
    return truth(*objects), draw(st.permutations(results))


@given(objects_and_results())
@settings(max_examples=200, deadline=None)
def test_the_figures_are_equal_at_every_border(problem: Any) -> None:
    content, results = problem
    assert_same(results, content)


def test_of_more_than_a_hundred_detections_the_same_hundred_count() -> None:
    misses = [{**OBJECT, "bbox": [200 + i, 200, 30, 30], "score": 0.5} for i in range(130)]
    hit = {**OBJECT, "score": 0.5}
    # The hit is the 100th of equal score, then the 101st, which is cut off.
    assert assert_same([*misses[:99], hit, *misses[99:]], truth(OBJECT))["AR100"] == 1
    assert assert_same([*misses[:100], hit, *misses[100:]], truth(OBJECT))["AR100"] == 0


def test_the_figures_are_equal_without_detections_or_objects() -> None:
    assert assert_same([], truth(OBJECT))["AP"] == 0
    assert assert_same([{**OBJECT, "score": 0.9}], truth())["AP"] is None
    crowd = truth({**OBJECT, "iscrowd": 1})
    assert assert_same([{**OBJECT, "score": 0.9}], crowd)["AP"] is None


def test_a_missing_backend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no backend 'fastest'; choose one of pycocotools"):
        evaluate_detections([], truth(), backend="fastest")
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    with pytest.raises(ImportError, match=r"pip install 'fcos-zoo\[analysis\]'"):
        evaluate_detections([], truth(), backend="hotcoco")
