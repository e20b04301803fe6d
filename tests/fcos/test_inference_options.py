"""A detector that is only run: fused, compiled, cast below float32, in the faster memory layout."""

from __future__ import annotations

import copy
import functools
import shutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import zoo
from fcos import TTA_MULTI_SCALE, Detector
from fcos.inference import inference_layout

Build = Callable[..., Detector]


def logits(detector: Detector, image: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return [level.logits for level in detector.levels([image])]


def test_a_fused_detector_is_neither_trained_nor_loaded() -> None:
    detector = zoo.build("FCOS_shapes_tiny")
    state = detector.state_dict()
    with pytest.raises(RuntimeError, match="a fused detector cannot be trained"):
        detector.fuse().train()
    with pytest.raises(ValueError, match="load weights into it before `fuse"):
        zoo.load_checkpoint(detector, state)


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")
def test_a_compiled_detector_computes_the_same(tiny_detector: Build, picture: Tensor) -> None:
    detector = tiny_detector().eval().fuse()
    expected = logits(detector, picture)
    detector.compile_network()
    torch.testing.assert_close(logits(detector, picture), expected, rtol=1e-3, atol=1e-3)


def test_one_compiled_graph_serves_every_size(
    picture: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = zoo.get("FCOS_shapes_tiny").fuse()
    # On CPUs torch takes another kernel, and another graph, for maps of fewer than 20,480 values.
    images = [picture.repeat(1, 8, 8), picture.repeat(1, 9, 7)]
    expected = [logits(detector, image) for image in images]
    # Traced and not turned into machine code, which would take a minute.
    traced = functools.partial(torch.compile, backend="aot_eager", fullgraph=True)
    monkeypatch.setattr(torch, "compile", traced)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    detector.compile_network()
    for image, eager in zip(images, expected, strict=True):
        torch.testing.assert_close(logits(detector, image), eager, rtol=1e-3, atol=1e-3)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 3  # one for each part


def test_zoo_get_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Detector] = []
    monkeypatch.setattr(Detector, "compile_network", lambda self: compiled.append(self) or self)
    detector = zoo.get("FCOS_shapes_tiny", compile=True)
    assert compiled == [detector]
    assert detector.fused


def test_compiling_without_a_compiler_names_it(
    tiny_detector: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RuntimeError, match="no-such-compiler is not on the PATH"):
        tiny_detector().compile_network()


def test_a_copy_of_a_compiled_detector_runs_its_own_weights(
    tiny_detector: Build, picture: Tensor
) -> None:
    detector = tiny_detector().eval()
    expected = logits(detector, picture)
    for part in (detector.backbone, detector.pyramid, detector.head):
        part.compile(backend="eager")
    twin = copy.deepcopy(detector)
    nn.init.zeros_(twin.head.cls_logits.weight)
    assert not torch.allclose(logits(twin, picture)[0], expected[0])
    torch.testing.assert_close(logits(detector, picture), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_detector_cast_below_float32_detects_the_same(
    tiny_detector: Build, picture: Tensor, dtype: torch.dtype
) -> None:
    detector = tiny_detector(head={"tower_depth": 2}).eval()
    exact = logits(detector, picture)
    detector.to(dtype)
    assert detector.normalizer.mean.dtype == torch.float32
    with torch.no_grad():
        lowered = detector.levels([picture])
    for level, expected in zip(lowered, exact, strict=True):
        assert level.logits.dtype == level.ltrb.dtype == torch.float32
        error = (level.logits.sigmoid() - expected.sigmoid()).abs().max()
        assert float(error) < 0.05
    detections = detector.detect(picture)[0]
    assert len(detections) > 0
    assert detections.boxes.dtype == detections.scores.dtype == torch.float32


def test_tensors_of_another_default_device_do_not_get_in(
    tiny_detector: Build, picture: Tensor
) -> None:
    detector = tiny_detector().eval()
    expected = detector.detect(picture, tta=TTA_MULTI_SCALE)[0]
    with torch.device("meta"):
        found = detector.detect(picture, tta=TTA_MULTI_SCALE)[0]
        assert found[:2].filter(found.names[0]).names[0] == found.names[0]
    assert torch.equal(found.boxes, expected.boxes)


def test_the_layout_is_contiguous_only_in_float32_on_a_gpu() -> None:
    assert inference_layout("cpu", torch.float32) == torch.channels_last
    assert inference_layout("cuda", torch.float32) == torch.contiguous_format
    assert inference_layout("cuda:1", torch.bfloat16) == torch.channels_last


def test_another_resize_method_is_asked_for_by_name() -> None:
    detector = zoo.get("FCOS_shapes_tiny", resize="antialias")
    image = torch.randint(0, 256, (3, 320, 240), dtype=torch.uint8)
    published = zoo.get("FCOS_shapes_tiny").prepare([image])[0].tensor
    resized = detector.prepare([image])[0].tensor
    difference = (resized - published).abs().max() * detector.normalizer.std.max()
    assert 0 < float(difference) <= 1.01  # grey levels
    with pytest.raises(ValueError, match="resize 'best' is not one of pil, opencv, tensor, anti"):
        zoo.get("FCOS_shapes_tiny", resize="best")
