"""Other detectors in the same tables."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import latency, measure, peers, pictures
from benchmarks.cell import Cell, MissingError, Pace, Weights
from benchmarks.suite import Suite

OURS = "adapter:two_boxes"


def cell(metric: str, batch: int = 1) -> Cell:
    dataset = pictures.embedded()
    pace = Pace(3, 0, 0, 5)
    return Cell(
        OURS, metric, batch=batch, dataset=dataset, limit=3, pace=pace, weights=Weights("peer")
    )


def test_an_adapter_is_timed_and_its_boxes_are_measured() -> None:
    timed = latency.join([measure.measure(cell("latency"))])
    assert list(timed["stages"]) == ["detect"]
    assert timed["detections"] == 2
    assert timed["candidates"] is None
    assert latency.join([measure.measure(cell("throughput", batch=2))])["median"] > 0
    assert measure.measure(cell("ap"))["detections"] == 6


def test_what_an_adapter_does_not_say_is_missing() -> None:
    with pytest.raises(MissingError, match=r"no torch\.nn\.Module"):
        measure.measure(cell("params"))
    with pytest.raises(MissingError, match="names no classes"):
        measure.measure(dataclasses.replace(cell("ap"), entry="adapter:nameless"))


def test_peers_have_short_names_and_wrong_ones_are_refused() -> None:
    assert peers.qualified("torchvision") == "benchmarks.peers:torchvision_fcos"
    assert peers.qualified(OURS) == OURS
    with pytest.raises(ValueError, match="write module:function"):
        peers.qualified("detectron")
    with pytest.raises(ImportError, match="no function"):
        peers.load("adapter:three_boxes", "cpu", "fp32")


def test_a_suite_measures_peers_by_what_they_have() -> None:
    wanted = Suite(peers=[OURS], metrics=["flops", "latency", "training_memory", "ap"])
    assert [one.metric for one in wanted.cells()] == ["latency", "ap"]


def test_a_peer_has_no_row_of_settings_that_it_does_not_have() -> None:
    layouts, compiled = ("channels_last", "contiguous"), (False, True)
    wanted = Suite(peers=[OURS], metrics=["latency"], layouts=layouts, compiled=compiled)
    assert [(one.layout, one.compiled) for one in wanted.cells()] == [("channels_last", False)]
    with pytest.raises(MissingError, match=r"no resize\(shortest, longest\)"):
        measure.measure(dataclasses.replace(cell("latency"), size=(64, 96)))


def test_an_adapter_that_was_changed_is_another_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    wanted = Suite(peers=["changing:detector"], metrics=["latency"])
    keys = set()
    for text in ("detector = 1", "detector = 2"):
        (tmp_path / "changing.py").write_text(text)
        keys.add(wanted.cells()[0].key)
    assert len(keys) == 2
    for nowhere in ("nowhere:detector", "nowhere.at_all:detector"):
        assert peers.digest(nowhere) == ""


def test_torchvision_takes_pictures_and_gives_boxes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    small = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    monkeypatch.setattr(pictures, "read", lambda *_: pictures.Picture(1, small))
    build = peers.fcos_resnet50_fpn
    monkeypatch.setattr(
        peers, "fcos_resnet50_fpn", lambda **kw: build(**kw, min_size=64, max_size=96)
    )
    detector = peers.load(peers.qualified("torchvision"), "cpu", "fp32", size=(32, 48))
    seen: list[Tensor] = []
    detector.model.backbone.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.inference_mode():
        [found] = detector([small])
    assert len(found["boxes"]) > 0
    assert seen[0].shape == (1, 3, 32, 64)  # 32 by 48, padded to a multiple of 32
    assert detector.weights == "random"
    assert detector.classes[1] == "person"
