"""OpenMMLab's checkpoints, written with its names, load strictly and bring every tensor home."""

from __future__ import annotations

import re

import pytest
import timm
import torch
import torchvision
from torch import Tensor

import zoo

# Ours to theirs, as mmdetection 2.x prints them. Its backbones have the names of torchvision's
# ResNet and of the authors' HRNet, which timm kept.
NAMES = [
    (r"backbone\.stages\.(\d)(.+)\.conv\.offset\.(\w+)", r"backbone.stage\1\2.conv_offset.\3"),
    (r"pyramid\.lateral\.(\d)\.(\w+)", r"neck.lateral_convs.\1.conv.\2"),
    (r"pyramid\.reduction\.(\w+)", r"neck.reduction_conv.conv.\1"),
    (r"pyramid\.output\.(\d)\.(\w+)", r"neck.fpn_convs.\1.conv.\2"),
    (r"pyramid\.extra\.0\.(\w+)", r"neck.fpn_convs.3.conv.\1"),
    (r"pyramid\.extra\.1\.(\w+)", r"neck.fpn_convs.4.conv.\1"),
    (r"head\.cls_tower\.(\d)\.conv\.offset\.(\w+)", r"bbox_head.cls_convs.\1.conv.conv_offset.\2"),
    (r"head\.box_tower\.(\d)\.conv\.offset\.(\w+)", r"bbox_head.reg_convs.\1.conv.conv_offset.\2"),
    (r"head\.cls_tower\.(\d)\.conv\.(\w+)", r"bbox_head.cls_convs.\1.conv.\2"),
    (r"head\.box_tower\.(\d)\.conv\.(\w+)", r"bbox_head.reg_convs.\1.conv.\2"),
    (r"head\.cls_tower\.(\d)\.norm\.(\w+)", r"bbox_head.cls_convs.\1.gn.\2"),
    (r"head\.box_tower\.(\d)\.norm\.(\w+)", r"bbox_head.reg_convs.\1.gn.\2"),
    (r"head\.cls_logits\.(\w+)", r"bbox_head.conv_cls.\1"),
    (r"head\.box_pred\.(\w+)", r"bbox_head.conv_reg.\1"),
    (r"head\.quality\.(\w+)", r"bbox_head.conv_centerness.\1"),
    (r"head\.scales\.(\d)", r"bbox_head.scales.\1.scale"),
]


def _theirs(key: str) -> str:
    pattern, name = next(pair for pair in NAMES if re.fullmatch(pair[0], key))
    name = re.sub(pattern, name, key)
    return re.sub(r"\.stage(\d)", lambda m: f".layer{int(m[1]) + 1}", name)


def _as_published(entry: str) -> dict[str, Tensor]:
    """A state dict of random values; scales are scalars, and batch norms count their batches."""
    torch.manual_seed(3)
    with torch.device("meta"):
        if "HRNet" in entry:
            backbone = timm.create_model(f"hrnet_w{re.findall('W([0-9]+)', entry)[0]}", head="")
        else:
            backbone = torchvision.models.resnet50()
    classifier = r"fc|(incre|downsamp)_modules|final_layer|classifier"
    shapes = {
        f"backbone.{key}": value.shape
        for key, value in backbone.state_dict().items()
        if not re.match(classifier, key)
    }
    for key, value in zoo.build(entry).state_dict().items():
        if "offset" in key or not key.startswith("backbone."):
            shapes[_theirs(key)] = value.shape
    return {
        key: torch.randn(()) if key.endswith(".scale") else torch.randn(shape)
        for key, shape in shapes.items()
    }


@pytest.mark.parametrize("entry", ["FCOS_MM_R_50_1x", "FCOS_MM_R_50_imprv_dcn_1x"])
def test_their_names_load_strictly(entry: str) -> None:
    state = _as_published(entry)
    detector = zoo.build(entry)
    zoo.load_checkpoint(detector, {"meta": {}, "state_dict": state, "optimizer": {}})
    ours = detector.state_dict()
    torch.testing.assert_close(ours["head.box_pred.weight"], state["bbox_head.conv_reg.weight"])
    torch.testing.assert_close(
        ours["backbone.stages.3.0.shortcut.conv.weight"],
        state["backbone.layer4.0.downsample.0.weight"],
    )
    assert ours["head.scales.4"] == state["bbox_head.scales.4.scale"]
    before_version_2 = {re.sub("head.conv_(cl|re|ce)", r"head.fcos_\1", k): state[k] for k in state}
    assert before_version_2.keys() != state.keys()
    zoo.load_checkpoint(detector, before_version_2)


@pytest.mark.parametrize("entry", ["FCOS_MM_HRNet_W18_1x", "FCOS_MM_HRNet_W40_ms_2x"])
def test_hrnet_and_its_pyramid_of_five_convolutions_load_strictly(entry: str) -> None:
    state = _as_published(entry)
    assert {key for key in state if key.startswith("neck.")} == {
        f"neck.{part}.conv.{leaf}"
        for part in ("reduction_conv", *(f"fpn_convs.{level}" for level in range(5)))
        for leaf in ("weight", "bias")
    }
    detector = zoo.build(entry)
    zoo.load_checkpoint(detector, {"state_dict": state})
    ours = detector.state_dict()
    torch.testing.assert_close(ours["pyramid.output.4.bias"], state["neck.fpn_convs.4.conv.bias"])


def test_towers_have_a_bias_only_in_the_improved_ones() -> None:
    assert "head.cls_tower.0.conv.bias" not in zoo.build("FCOS_MM_R_50_1x").state_dict()
    assert "head.cls_tower.0.conv.bias" in zoo.build("FCOS_MM_R_50_imprv_1x").state_dict()
