"""ImageNet weights in a backbone: the numbers of the network that they were trained in."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.models import mobilenet_v2, resnet50
from torchvision.models.feature_extraction import create_feature_extractor

import zoo
from zoo.initial_weights import FOLDER, check_stride, facts_of, load_backbone

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def _drawn(model: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)


def _theirs(model: torch.nn.Module, image: Tensor, nodes: list[str]) -> list[Tensor]:
    normalised = (image.float() / 255 - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)
    with torch.no_grad():
        return list(create_feature_extractor(model, nodes)(normalised[None]).values())


def _ours(detector: torch.nn.Module, image: Tensor) -> list[Tensor]:
    detector.eval()
    with torch.no_grad():
        return detector.backbone(detector.normalizer([image]).tensor)


def test_torchvision_resnet_gives_its_own_features(image: Tensor) -> None:
    model = _drawn(resnet50())
    detector = zoo.build("FCOS_TV_R_50")
    load_backbone(detector, model.state_dict())
    for ours, theirs in zip(
        _ours(detector, image), _theirs(model, image, ["layer2", "layer3", "layer4"]), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_weights_for_rgb_see_the_same_in_a_bgr_detector(image: Tensor) -> None:
    model = _drawn(mobilenet_v2())
    detector = zoo.build("FCOS_syncbn_bs32_c128_MNV2_FPN_1x")  # BGR, 0..255, mean of Caffe2
    load_backbone(detector, model.state_dict())
    theirs = _theirs(model, image, ["features.6", "features.13", "features.17"])
    for ours, expected in zip(_ours(detector, image), theirs, strict=True):
        # Borders differ: a padded zero is not the same grey in both.
        torch.testing.assert_close(
            ours[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2], rtol=1e-2, atol=1e-2
        )


def _blobs(drawn: dict[str, Tensor], leaves: dict[str, str]) -> dict[str, Any]:
    """Caffe2's names for a ResNet's tensors; `leaves` are its for those of a norm."""
    parts = {"conv1": "2a", "conv2": "2b", "conv3": "2c", "shortcut": "1"}
    blobs = {"conv1_b": np.full(64, 0.5), "fc1000_w": np.zeros((2, 2)), "fc1000_b": np.zeros(2)}
    for key, value in drawn.items():
        stage, *rest = key.split(".")
        suffix = "w" if rest[-2] == "conv" else f"bn_{leaves[rest[-1]]}"
        if stage == "stem":
            name = "conv1_w" if suffix == "w" else f"res_conv1_{suffix}"
        else:
            name = f"res{int(rest[0]) + 2}_{rest[1]}_branch{parts[rest[2]]}_{suffix}"
        blobs[name] = value.numpy()
    return blobs


DETECTRON = {"weight": "s", "bias": "b"}
DETECTRON2 = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "running_mean",
    "running_var": "running_var",
}


@pytest.mark.parametrize("leaves", [DETECTRON, DETECTRON2], ids=["detectron", "detectron2"])
def test_caffe2_blobs_fill_a_frozen_resnet(tmp_path: Path, leaves: dict[str, str]) -> None:
    detector = zoo.build("FCOS_R_50_1x")
    torch.manual_seed(0)
    drawn = {
        key: torch.rand(value.shape) + 0.5
        for key, value in detector.backbone.state_dict().items()
        if key.rpartition(".")[2] in leaves
    }
    blobs = _blobs(drawn, leaves)
    unread = {"conv1_w_momentum": blobs["conv1_w"], "res2_0_branch2a_b": np.zeros(64)}
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({"blobs": blobs | unread}))
    load_backbone(detector, path)
    loaded = detector.backbone.state_dict()
    for key, value in drawn.items():
        torch.testing.assert_close(loaded[key], value)
    if leaves is DETECTRON:  # an affine map
        norm = detector.backbone.stages[0][0].conv1.norm
        torch.testing.assert_close(norm.running_mean, torch.zeros(64))
        torch.testing.assert_close(norm.running_var + norm.eps, torch.ones(64))


def _vovnet_name(key: str) -> str:
    """The authors' name for a tensor of our VoVNet."""
    stage, *rest = key.split(".")
    if stage == "stem":
        return f"stem.stem_{int(rest[0]) + 1}/{'.'.join(rest[1:])}"
    number, block = int(rest[0]) + 2, int(rest[1]) + 1
    osa = f"OSA{number}_{block}"
    if rest[2] == "layers":
        return f"stage{number}.{osa}.layers.{rest[3]}.{osa}_{rest[3]}/{'.'.join(rest[4:])}"
    if rest[2] == "concat":
        return f"stage{number}.{osa}.concat.{osa}_concat/{'.'.join(rest[3:])}"
    return f"stage{number}.{osa}.{'.'.join(rest[2:])}"


@pytest.mark.parametrize("prefix", ["", "backbone.bottom_up."])
def test_common_prefixes_of_keys_are_dropped(prefix: str) -> None:
    detector, other = (zoo.build("FCOS_MS_V_39_3x") for _ in range(2))
    expected = detector.backbone.state_dict()
    load_backbone(other, {prefix + _vovnet_name(key): value for key, value in expected.items()})
    for key, value in other.backbone.state_dict().items():
        torch.testing.assert_close(value, expected[key])


def test_a_stride_in_another_place_is_refused() -> None:
    detector = zoo.build("FCOS_TV_R_50")
    with pytest.raises(zoo.CheckpointError, match="stride of a stage in the first 1x1"):
        check_stride(detector, facts_of("msra_r50"))


def test_another_network_is_refused_and_nothing_changes() -> None:
    detector = zoo.build("FCOS_syncbn_bs32_c128_MNV2_FPN_1x")
    before = detector.backbone.stem.conv.weight.clone()
    with pytest.raises(zoo.CheckpointError, match="not ImageNet weights of this MobileNetV2"):
        load_backbone(detector, resnet50().state_dict())
    assert torch.equal(before, detector.backbone.stem.conv.weight)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_imagenet_weights_state_their_sources_and_input(path: Path) -> None:
    facts = facts_of(path.stem)
    assert facts["weights"]
    assert facts["input"] is None or facts["input"].keys() == {
        *("channel_order", "value_range", "mean", "std")
    }
