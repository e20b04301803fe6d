"""The COCO figures of made-up detections are those that the original systems print."""

from __future__ import annotations

import numpy as np
import pytest
import training_fixtures as project


@pytest.mark.parametrize(
    ("system", "plus_one"), [("detectron2", False), ("maskrcnn_benchmark", True)]
)
def test_the_twelve_figures_are_equal(system, plus_one):
    expected = project.load("evaluation.json")
    with np.load(project.FOLDER / "detections.npz") as detections:
        annotations = project.load("annotations_val.json.gz")
        figures = project.coco_figures(detections, annotations, plus_one)
    assert list(figures) == expected["order"]
    assert list(figures.values()) == pytest.approx(expected[system], rel=1e-12, abs=0)
