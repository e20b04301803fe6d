"""Corrupted images are the same each time and worse with strength."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.cases import Case, Dataset, MissingError
from benchmarks.dataset import (
    CORRUPTIONS,
    STRENGTHS,
    corrupt,
    embedded,
    image_dataset,
    image_ids,
)
from benchmarks.measure import measure
from benchmarks.workload import resolve_weights


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.float() - other.float()).abs().mean())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_is_the_same_each_time_and_grows_with_strength(name: str) -> None:
    dataset = embedded()
    ids = image_ids(dataset)[:2]
    clean = image_dataset(dataset, ids)[0][0]
    images = [image_dataset(dataset, ids, (name, strength))[0][0] for strength in STRENGTHS]
    again = image_dataset(dataset, ids[:1], (name, 2))[0][0]
    assert torch.equal(images[1], again)
    assert all(image.shape == clean.shape and image.dtype == torch.uint8 for image in images)
    changes = [distance(clean, image) for image in images]
    assert 0 < changes[0] < changes[1] < changes[2]


def test_corruptions_have_their_stated_size() -> None:
    gray = Image.new("RGB", (64, 64), (128, 128, 128))
    noisy = np.asarray(corrupt(gray, "noise", 1, 7), dtype=float)
    assert noisy.std() == pytest.approx(0.08 * 255, rel=0.05)
    other = np.asarray(corrupt(gray, "noise", 1, 8))
    assert not np.array_equal(noisy, other)  # of another image
    halves = Image.fromarray(np.repeat([[[0] * 3, [200] * 3]], 4, axis=0).astype(np.uint8))
    flat = np.asarray(corrupt(halves, "contrast", 2, 7))
    assert set(flat.flatten().tolist()) == {80, 120}


def test_robustness_is_the_ap_of_each_corruption(drawn: Dataset) -> None:
    weights = resolve_weights("FCOS_shapes_tiny", {}, None, cached_only=True)
    case = Case("FCOS_shapes_tiny", "robustness", dataset=drawn, threads=1, weights=weights)
    values = measure(case)
    every = [ap for aps in values["corrupted"].values() for ap in aps]
    assert list(values["corrupted"]) == list(CORRUPTIONS)
    assert len(every) == 12
    assert values["mean"] == pytest.approx(sum(every) / 12)
    assert values["mean"] < values["clean"]
    assert values["relative"] == pytest.approx(values["mean"] / values["clean"])
    with pytest.raises(MissingError, match="no weights given"):
        measure(Case("FCOS_shapes_tiny", "robustness", dataset=drawn, threads=1))
