"""Corrupted images are the same each time and worse with strength; energy comes from counters."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.accuracy import CORRUPTIONS, STRENGTHS, corrupt, image_dataset
from benchmarks.cases import Case, Dataset, MissingError
from benchmarks.dataset import embedded, image_ids
from benchmarks.measure import joules_per_image, measure
from benchmarks.weights import resolve
from fcos.data import shapes


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


def test_robustness_is_the_ap_of_each_corruption(tmp_path: Any) -> None:
    annotations = shapes.write(tmp_path, 8, size=128)
    dataset = Dataset.of(annotations, annotations.parent / "images")
    weights = resolve("FCOS_shapes_tiny", {}, None, cached_only=True)
    case = Case("FCOS_shapes_tiny", "robustness", dataset=dataset, threads=1, weights=weights)
    values = measure(case)
    every = [ap for aps in values["corrupted"].values() for ap in aps]
    assert list(values["corrupted"]) == list(CORRUPTIONS)
    assert len(every) == 12
    assert values["mean"] == pytest.approx(sum(every) / 12)
    assert values["mean"] < values["clean"]
    assert values["relative"] == pytest.approx(values["mean"] / values["clean"])
    with pytest.raises(MissingError, match="no weights given"):
        measure(Case("FCOS_shapes_tiny", "robustness", dataset=dataset, threads=1))


class Monitor:
    """Stands for Zeus: its counters rise by the same in every window."""

    def __init__(self, gpu_indices: list[int]) -> None:
        self.gpus = gpu_indices

    def begin_window(self, key: str) -> None:
        self.key = key

    def end_window(self, key: str) -> Any:
        assert key == self.key
        gpu = dict.fromkeys(self.gpus, 30.0)
        return SimpleNamespace(time=2.0, gpu_energy=gpu, cpu_energy=CPU, dram_energy=None)


CPU: dict[int, float] = {0: 5.0, 1: 1.0}


@pytest.fixture
def zeus(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("zeus.monitor")
    module.ZeusMonitor = Monitor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "zeus", ModuleType("zeus"))
    monkeypatch.setitem(sys.modules, "zeus.monitor", module)


@pytest.mark.usefixtures("zeus")
def test_joules_are_those_of_the_device_by_the_images_of_the_window(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []
    stages = {"detect": lambda batch: seen.append(batch)}
    values = joules_per_image(stages, [[1, 2], [3]], "cpu", min_seconds=0)
    assert seen == [[1, 2], [3]] * 2  # one round before the window
    assert values == {"joules": 2.0, "cpu_joules": 2.0, "seconds": 2.0, "runs": 3}
    values = joules_per_image(stages, [[1, 2], [3]], "cuda:1", min_seconds=0)
    assert values["joules"] == values["gpu_joules"] == 10
    monkeypatch.setitem(globals(), "CPU", None)
    with pytest.raises(MissingError, match="no energy counter of cpu can be read"):
        joules_per_image(stages, [[1]], "cpu", min_seconds=0)


@pytest.mark.usefixtures("zeus")
def test_energy_is_a_metric_like_any_other() -> None:
    case = Case("FCOS_shapes_tiny", "energy", dataset=embedded(), limit=1, threads=1,
                size=(96, 128))  # fmt: skip
    assert measure(case)["joules"] > 0


def test_without_zeus_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zeus", None)
    with pytest.raises(MissingError, match=r"pip install 'fcos-zoo\[energy\]'"):
        joules_per_image({}, [], "cpu", 0)
