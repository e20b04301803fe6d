"""Other detectors in the same tables."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import baselines, inference, measure
from benchmarks.cases import Case, MissingError, TimingBudget, Weights
from benchmarks.dataset import embedded
from benchmarks.suite import Suite

OURS = "adapter:two_boxes"


def case(metric: str, batch: int = 1) -> Case:
    dataset = embedded()
    timing = TimingBudget(3, 0, 0, 5)
    return Case(
        OURS,
        metric,
        batch=batch,
        dataset=dataset,
        limit=3,
        timing=timing,
        weights=Weights("baseline"),
    )


def test_an_adapter_is_timed_and_its_boxes_are_measured() -> None:
    timed = inference.combine_processes([measure.measure(case("latency"))])
    assert list(timed["stages"]) == ["detect"]
    assert timed["detections"] == 2
    assert timed["candidates"] is None
    assert inference.combine_processes([measure.measure(case("throughput", batch=2))])["median"] > 0
    assert measure.measure(case("ap"))["detections"] == 6


def test_values_that_an_adapter_omits_are_missing() -> None:
    with pytest.raises(MissingError, match=r"not a torch\.nn\.Module"):
        measure.measure(case("params"))
    with pytest.raises(MissingError, match="has no classes"):
        measure.measure(dataclasses.replace(case("ap"), entry="adapter:nameless"))


def test_baselines_have_short_names_and_unknown_ones_are_refused() -> None:
    assert baselines.full_name("torchvision") == "benchmarks.baselines:torchvision_fcos"
    assert baselines.full_name(OURS) == OURS
    with pytest.raises(ValueError, match="write module:function"):
        baselines.full_name("detectron")
    with pytest.raises(ImportError, match="no function"):
        baselines.load("adapter:three_boxes", "cpu", "fp32")


def test_a_baseline_has_only_the_metrics_and_settings_that_apply_to_it() -> None:
    metrics = ["flops", "latency", "training_memory", "ap"]
    layouts, compiled = ("channels_last", "contiguous"), (False, True)
    wanted = Suite(baselines=[OURS], metrics=metrics, layouts=layouts, compiled=compiled)
    cases = [(one.metric, one.layout, one.compiled) for one in wanted.cases()]
    assert cases == [(metric, "channels_last", False) for metric in ("latency", "ap")]
    with pytest.raises(MissingError, match=r"no resize\(shortest, longest\)"):
        measure.measure(dataclasses.replace(case("latency"), size=(64, 96)))


def test_an_adapter_that_was_changed_is_another_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    wanted = Suite(baselines=["changing:detector"], metrics=["latency"])
    keys = set()
    for text in ("detector = 1", "detector = 2"):
        (tmp_path / "changing.py").write_text(text)
        keys.add(wanted.cases()[0].key)
    assert len(keys) == 2
    for nowhere in ("nowhere:detector", "nowhere.at_all:detector"):
        assert baselines.digest(nowhere) == ""


def test_torchvision_baseline_detects(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    small = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    monkeypatch.setattr(baselines, "read_images", lambda *_: [small])
    build = baselines.fcos_resnet50_fpn
    monkeypatch.setattr(
        baselines, "fcos_resnet50_fpn", lambda **kw: build(**{**kw, "min_size": 64, "max_size": 96})
    )
    detector = baselines.load(baselines.full_name("torchvision"), "cpu", "fp32", size=(32, 48))
    seen: list[Tensor] = []
    detector.model.backbone.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.inference_mode():
        [found] = detector([small])
    assert len(found["boxes"]) > 0
    assert seen[0].shape == (1, 3, 32, 64)  # 32 by 48, padded to a multiple of 32
    assert detector.weights == "random"
    assert detector.classes[1] == "person"
