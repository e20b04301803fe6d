"""Published checkpoints of every form load completely or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import zoo
from fcos import Detector
from zoo.golden import Fixture

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
SMALL = "FCOS_syncbn_bs32_c128_MNV2_FPN_1x"
CLASSIFIER = "rpn.head.cls_logits.weight"
COUNTER = "num_batches_tracked"

State = dict[str, Tensor]


def with_solver(state: State) -> dict[str, Any]:
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.01}]}
    return {"model": state, "optimizer": optimizer, "scheduler": {"last": 9}, "iteration": 90000}


def with_module(state: State) -> State:
    return {f"module.{key}": tensor for key, tensor in state.items()}


FORMS: list[Callable[[State], Mapping[str, Any]]] = [
    lambda state: {"model": state},
    lambda state: {"state_dict": state},
    with_module,
    lambda state: {"model": with_module(state)},
    lambda state: {f"module._orig_mod.{key}": tensor for key, tensor in state.items()},
    with_solver,
    lambda state: {key: tensor.numpy() for key, tensor in state.items()},
    lambda state: {
        k: t.numpy().astype(t.numpy().dtype.newbyteorder(">")) for k, t in state.items()
    },
    lambda state: {k: t for k, t in state.items() if not k.endswith(COUNTER)},
    lambda state: {k: t.half() if t.is_floating_point() else t for k, t in state.items()},
]


@pytest.mark.parametrize("form", FORMS)
def test_any_wrapper_prefix_or_counter_is_accepted(
    small: Detector, published: State, form: Callable[[State], Mapping[str, Any]]
) -> None:
    zoo.load_checkpoint(small, form(published))
    expected = published[CLASSIFIER]
    torch.testing.assert_close(
        small.head.cls_logits.weight.detach(), expected, rtol=1e-3, atol=1e-6
    )


def test_detectron2_may_store_pixel_statistics_and_counters_of_frozen_norms() -> None:
    state = Fixture(GOLDEN / "FCOS_R_50_1x_iou.json").state_dict()
    state[f"backbone.bottom_up.stem.conv1.norm.{COUNTER}"] = torch.tensor(7)
    detector = zoo.build("FCOS_R_50_1x_iou")
    for pixels in (
        {"pixel_mean": torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1)},
        {"pixel_std": torch.ones(3, 1, 1, dtype=torch.float64)},
        {},
    ):
        zoo.load_checkpoint(detector, {**state, **pixels})
    published = state["backbone.bottom_up.res4.3.conv2.weight"]
    assert torch.equal(detector.backbone.stages[2][3].conv2.conv.weight, published)


@pytest.mark.parametrize("pixels", [[57.375, 57.12, 58.395], [1.0]])
def test_pixel_statistics_of_another_model_are_noticed(
    small: Detector, published: State, pixels: list[float]
) -> None:
    before = snapshot(small)
    published["pixel_std"] = torch.tensor(pixels)
    with pytest.raises(zoo.CheckpointError, match=r"pixel_std .* belongs to another model"):
        zoo.load_checkpoint(small, published)
    assert_unchanged(small, before)


def snapshot(detector: Detector) -> State:
    return {key: tensor.clone() for key, tensor in detector.state_dict().items()}


def assert_unchanged(detector: Detector, before: State) -> None:
    after = detector.state_dict()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())


def test_every_fault_is_listed_and_nothing_is_loaded(small: Detector, published: State) -> None:
    before = snapshot(small)
    for key in ("rpn.head.bbox_pred.bias", "backbone.body.features.3.conv.0.weight"):
        del published[key]
    published["rpn.head.mask_pred.weight"] = torch.zeros(4)
    published[CLASSIFIER] = published[CLASSIFIER][:3]
    with pytest.raises(zoo.CheckpointError) as error:
        zoo.load_checkpoint(small, published)
    message = str(error.value)
    assert f"the maskrcnn-benchmark checkpoint does not fit {SMALL}: 2 missing: " in message
    for fault in (
        "head.box_pred.bias",
        "backbone.stages.1.1.expand.conv.weight",
        "1 unexpected: rpn.head.mask_pred.weight",
        f"1 of another shape: {CLASSIFIER} 3x128x3x3 instead of 80x128x3x3",
    ):
        assert fault in message
    assert "\n" not in message
    assert_unchanged(small, before)


ODD: dict[str, Callable[[Tensor], Any]] = {
    "sparse": lambda tensor: tensor.to_sparse(),
    "quantised": lambda tensor: torch.quantize_per_tensor(tensor, 0.01, 0, torch.qint8),
    "meta": lambda tensor: tensor.to("meta"),
    "bool": lambda tensor: tensor > 0,
    "int8": lambda tensor: tensor.to(torch.int8),
    "float8": lambda tensor: tensor.to(torch.float8_e4m3fn),
    "complex": lambda tensor: tensor.to(torch.complex64),
    "text": lambda tensor: np.array(["0.1"]),
    "objects": lambda tensor: np.array([None, 1]),
    "dtype": lambda tensor: np.dtype("f4"),
}


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("odd", ODD)
def test_a_tensor_without_plain_values_is_named_and_nothing_is_loaded(
    small: Detector, published: State, odd: str
) -> None:
    before = snapshot(small)
    last = "rpn.head.bbox_pred.weight"
    published[last] = ODD[odd](published.pop(last))
    with pytest.raises(zoo.CheckpointError, match=last):
        zoo.load_checkpoint(small, published)
    assert_unchanged(small, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(
    small: Detector, published: State, value: float
) -> None:
    published[CLASSIFIER] = torch.full_like(published[CLASSIFIER], value)
    with pytest.raises(zoo.CheckpointError, match=f": 1 not finite: {CLASSIFIER}$"):
        zoo.load_checkpoint(small, published)


@pytest.mark.parametrize(
    ("content", "faults"),
    [
        (
            {"conv_cls.0.weight": torch.zeros(2)},
            ["head.scales.0", "head.box_pred.weight", "1 of another shape: conv_cls.0.weight"],
        ),
        (
            {"conv_cls.0.weight": torch.zeros(2), "scale_div": torch.zeros(())},
            ["head.scales.0", "1 unexpected: scale_div"],
        ),
        (
            {
                "bbox_head.conv_centerness.weight": torch.zeros(2),
                "bbox_head.scales.0.scale": torch.zeros(3),
            },
            ["bbox_head.scales.0.scale 3 instead of 1"],
        ),
    ],
)
def test_tensors_that_cannot_be_prepared_are_listed(
    small: Detector, content: State, faults: list[str]
) -> None:
    with pytest.raises(zoo.CheckpointError) as error:
        zoo.load_checkpoint(small, content)
    assert all(fault in str(error.value) for fault in faults), str(error.value)


@pytest.mark.parametrize(
    ("entry", "classes", "change", "message"),
    [
        (SMALL, 3, lambda state: state, r"2 of another shape: .*80 instead of 3"),
        (SMALL.replace("c128_", ""), 80, lambda state: state, "does not fit FCOS_syncbn_bs32_MNV2"),
        (
            SMALL,
            80,  # a tensor beside those with data-parallel training's prefix
            lambda state: {**with_module(state), "iteration": torch.tensor(3)},
            r"fit .*: 1 unexpected: iteration$",
        ),
        (
            SMALL,
            80,  # one tensor under two names
            lambda state: {**state, "rpn.head.ctrness.bias": state["rpn.head.centerness.bias"]},
            r"1 unexpected: rpn\.head\.c\w+\.bias$",
        ),
    ],
)
def test_the_state_of_another_detector_does_not_fit(
    published: State, entry: str, classes: int, change: Callable[[State], State], message: str
) -> None:
    with pytest.raises(zoo.CheckpointError, match=message):
        zoo.load_checkpoint(zoo.build(entry, num_classes=classes), change(published))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "holds no state dict"),
        ({"model": {}}, "holds no state dict"),
        ({"epoch": 12}, "'epoch' is not a tensor but int"),
        ({1: torch.zeros(1)}, "key 1 is not text"),
        ({"a\x1b[31m": 12}, r"a\\x1b\[31m' is not a tensor"),
        ({"a" * 200_000: 12}, "a{150,200}[.]{3} is not a tensor"),
        (
            {"ema": {"w": torch.zeros(1)}},
            "'ema' is not a tensor but dict: give only the state dict",
        ),
        (
            {"roi_heads.box_predictor.cls_score.weight": torch.zeros(81, 1024)},
            r"two-stage detector \(Faster or Mask R-CNN\)",
        ),
        ({"conv1.weight": torch.zeros(1), "fc.weight": torch.zeros(1)}, "classification network"),
        ({"transformer.layer.weight": torch.zeros(1)}, "its keys are like transformer.layer"),
    ],
)
def test_a_checkpoint_of_another_kind_is_named(small: Detector, content: Any, message: str) -> None:
    with pytest.raises(zoo.CheckpointError, match=message):
        zoo.load_checkpoint(small, content)


def test_precision_is_a_plain_argument(published: State, tmp_path: Path) -> None:
    torch.save(published, tmp_path / "published.pth")
    detector = zoo.get(SMALL, weights=str(tmp_path / "published.pth"), precision="bf16")
    assert detector.head.cls_logits.weight.dtype == torch.bfloat16
    assert detector.backbone.stem.norm.running_var.dtype == torch.float32
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    (detections,) = detector([image])
    assert len(detections["scores"]) > 0
    assert detections["boxes"].dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"weights": "nowhere.pth"},
            zoo.WeightsError,
            "nowhere.pth cannot be read.*check the path",
        ),
        ({"precision": "int8"}, ValueError, "'int8' is not one of fp32, bf16, fp16"),
        ({"device": "cuda"}, ValueError, "device 'cuda': torch finds no GPU here"),
    ],
)
def test_a_wrong_argument_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    arguments: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(error, match=message) as caught:
        zoo.get(SMALL, **arguments)
    assert "\n" not in str(caught.value)
