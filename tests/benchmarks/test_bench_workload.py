"""What is timed is `Detector.detect` itself, with a realistic load."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch

import zoo
from backbones import winograd
from benchmarks import inference, measure, random_weights, workload
from benchmarks.cases import Case, MissingError, TimingBudget
from benchmarks.dataset import embedded, read_images

ENTRY = "FCOS_syncbn_bs32_c128_MNV2_FPN_1x"


@pytest.fixture(scope="module")
def photos() -> list[torch.Tensor]:
    return read_images(embedded(), 2)


def test_the_stages_together_are_detect(photos: list[torch.Tensor]) -> None:
    detector = workload.build_detector(Case(ENTRY, "latency", size=(96, 160)), photos)
    with torch.inference_mode():
        item = photos[:1]
        for stage in workload.stages(detector).values():
            item = stage(item)
    [expected] = detector.detect(photos[0])
    assert len(expected) > 0
    assert torch.equal(item[0]["boxes"], expected.boxes)
    assert torch.equal(item[0]["scores"], expected.scores)


@pytest.mark.parametrize("entry", [ENTRY, "FCOS_R_50_1x", "FCOS_R_50_noctr_2x"])
def test_random_weights_give_decoding_as_much_to_do_as_trained_ones(
    entry: str, photos: list[torch.Tensor]
) -> None:
    detector = zoo.build(entry).eval()
    detector.resize = workload.with_size(detector.resize, (128, 192))
    random_weights.randomize(detector, photos, candidates=300)
    threshold = detector.decoder.score_threshold
    with torch.no_grad():
        levels = [lv for p in photos for lv in detector.network(detector.prepare([p])[0])]
    passing = sum(int((level.logits.sigmoid() > threshold).sum()) for level in levels)
    assert passing == pytest.approx(2 * 300, rel=0.05)
    assert all(bool(torch.isfinite(level.ltrb).all()) for level in levels)
    assert all(float(level.ltrb.max()) > 0 for level in levels)


def test_a_compiled_network_gives_the_same_detections(
    photos: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    # In one graph, traced and not turned into machine code, which takes long and needs a compiler.
    monkeypatch.setattr(
        torch, "compile", functools.partial(torch.compile, backend="eager", fullgraph=True)
    )
    detector = workload.build_detector(Case("FCOS_shapes_tiny", "latency", size=(96, 160)), photos)
    plain, compiled = workload.stages(detector), workload.stages(detector, compiled=True)
    with torch.inference_mode():
        for photo in photos:  # of different shape
            prepared = plain["preprocess"]([photo])
            expected, found = (run["network"](prepared)[0] for run in (plain, compiled))
            for one, other in zip(expected, found, strict=True):
                torch.testing.assert_close(other.logits, one.logits)
                torch.testing.assert_close(other.ltrb, one.ltrb)


def test_winograd_s_convolutions_give_the_same_detections(
    photos: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "FEWEST_PAIRS", 1)  # those of the small network, too
    trained = workload.resolve_weights("FCOS_shapes_tiny")
    case = Case("FCOS_shapes_tiny", "latency", size=(96, 160), weights=trained)
    plain = workload.build_detector(case, photos)
    fast = workload.build_detector(replace(case, winograd=True), photos)
    assert any(isinstance(module, winograd.WinogradConv2d) for module in fast.modules())
    [expected], [found] = plain.detect(photos[0]), fast.detect(photos[0])
    assert len(expected) > 0
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=0)
    with pytest.raises(MissingError, match="are for fp32 on a CPU"):
        measure.measure(replace(case, winograd=True, precision="bf16"))


def test_a_latency_case_states_its_conditions() -> None:
    settings = {"size": (64, 96), "dataset": embedded(), "limit": 2}
    case = Case(ENTRY, "latency", timing=TimingBudget(3, 0, 0, 5), **settings)
    values = inference.combine_processes([measure.measure(case), measure.measure(case)])
    assert values["n"] == 2 * values["rounds"] >= 12
    assert np.concatenate(values["samples_ms"]).size == values["n"]
    assert len(values["process_medians"]) == values["processes"] == 2
    assert set(values["stages"]) == {"preprocess", "network", "decode"}
    assert values["weights"] == "random"
    assert values["candidates"] > 0
    assert "after" in values["state"]


def test_the_gpu_of_a_case_is_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for device in ("cpu", "cuda", "cuda:1"):
        workload.configure_process(Case(ENTRY, "latency", device=device))
    assert chosen == [0, 1]


@pytest.mark.parametrize(
    ("gpus", "settings", "reason"),
    [
        (0, {"device": "cuda"}, "no GPU on this machine"),
        (1, {"device": "cuda:1"}, "no GPU cuda:1 on this machine"),
        (0, {"precision": "tf32"}, "TF32 exists only on GPUs"),
        (0, {"layout": "contiguous"}, "always channels-last"),
    ],
)
def test_a_case_that_this_machine_cannot_measure_is_missing(
    gpus: int, settings: dict, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(MissingError, match=reason):
        measure.measure(Case(ENTRY, "latency", **settings))
