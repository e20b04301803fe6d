"""OpenMMLab's checkpoints, written with its names, load strictly and bring every tensor home."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

import zoo

# Ours to theirs, as mmdetection 2.x prints them.
RESNET = [
    (r"backbone\.stem\.conv\.(\w+)", r"backbone.conv1.\1"),
    (r"backbone\.stem\.norm\.(\w+)", r"backbone.bn1.\1"),
    (
        r"backbone\.stages\.(\d)\.(\d+)\.shortcut\.conv\.(\w+)",
        r"backbone.layer@\1.\2.downsample.0.\3",
    ),
    (
        r"backbone\.stages\.(\d)\.(\d+)\.shortcut\.norm\.(\w+)",
        r"backbone.layer@\1.\2.downsample.1.\3",
    ),
    (
        r"backbone\.stages\.(\d)\.(\d+)\.conv2\.conv\.offset\.(\w+)",
        r"backbone.layer@\1.\2.conv2.conv_offset.\3",
    ),
    (r"backbone\.stages\.(\d)\.(\d+)\.conv(\d)\.conv\.(\w+)", r"backbone.layer@\1.\2.conv\3.\4"),
    (r"backbone\.stages\.(\d)\.(\d+)\.conv(\d)\.norm\.(\w+)", r"backbone.layer@\1.\2.bn\3.\4"),
]
HRNET = [
    (
        r"backbone\.stem\.([01])\.(conv|norm)\.(\w+)",
        lambda m: f"backbone.{HALF[m[2]]}{int(m[1]) + 1}.{m[3]}",
    ),
    (
        r"backbone\.stage1\.(\d)\.conv(\d)\.(conv|norm)\.(\w+)",
        lambda m: f"backbone.layer1.{m[1]}.{HALF[m[3]]}{m[2]}.{m[4]}",
    ),
    (
        r"backbone\.stage1\.(\d)\.shortcut\.(conv|norm)\.(\w+)",
        lambda m: f"backbone.layer1.{m[1]}.downsample.{PLACE[m[2]]}.{m[3]}",
    ),
    (
        r"backbone\.transitions\.0\.(conv|norm)\.(\w+)",
        lambda m: f"backbone.transition1.0.{PLACE[m[1]]}.{m[2]}",
    ),
    (
        r"backbone\.transitions\.(\d)\.(conv|norm)\.(\w+)",
        lambda m: f"backbone.transition{m[1]}.{m[1]}.0.{PLACE[m[2]]}.{m[3]}",
    ),
    (
        r"backbone\.stages\.(\d)\.(\d)\.branches\.(\d)\.(\d)\.conv(\d)\.(conv|norm)\.(\w+)",
        lambda m: (
            f"backbone.stage{int(m[1]) + 2}.{m[2]}.branches.{m[3]}.{m[4]}.{HALF[m[6]]}{m[5]}.{m[7]}"
        ),
    ),
    (
        r"backbone\.stages\.(\d)\.(\d)\.fusions\.(\d)\.down\.(\d)\.(\d)\.(conv|norm)\.(\w+)",
        lambda m: (
            f"backbone.stage{int(m[1]) + 2}.{m[2]}.fuse_layers.{m[3]}.{m[4]}.{m[5]}"
            f".{PLACE[m[6]]}.{m[7]}"
        ),
    ),
    (
        r"backbone\.stages\.(\d)\.(\d)\.fusions\.(\d)\.up\.(\d)\.(conv|norm)\.(\w+)",
        lambda m: (
            f"backbone.stage{int(m[1]) + 2}.{m[2]}.fuse_layers.{m[3]}.{int(m[3]) + int(m[4]) + 1}"
            f".{PLACE[m[5]]}.{m[6]}"
        ),
    ),
    (r"pyramid\.reduction\.(\w+)", r"neck.reduction_conv.conv.\1"),
    (r"pyramid\.output\.(\d)\.(\w+)", r"neck.fpn_convs.\1.conv.\2"),
]
HALF, PLACE = {"conv": "conv", "norm": "bn"}, {"conv": "0", "norm": "1"}
REST = [
    (r"pyramid\.lateral\.(\d)\.(\w+)", r"neck.lateral_convs.\1.conv.\2"),
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
    for pattern, replacement in (*RESNET, *HRNET, *REST):
        if re.fullmatch(pattern, key):
            name = re.sub(pattern, replacement, key)
            return re.sub(r"layer@(\d)", lambda m: f"layer{int(m[1]) + 1}", name)
    raise AssertionError(f"no name for {key}")


def _as_published(entry: str) -> dict[str, Tensor]:
    torch.manual_seed(3)
    drawn = {k: torch.randn(v.shape) for k, v in zoo.build(entry).state_dict().items()}
    state = {_theirs(key): value for key, value in drawn.items()}
    # Scales are scalars there, and every batch norm counts its batches.
    for key in [key for key in state if key.endswith(".scale")]:
        state[key] = state[key].squeeze()
    for key in [key for key in state if key.endswith("running_var")]:
        state[key.replace("running_var", "num_batches_tracked")] = torch.zeros(
            (), dtype=torch.int64
        )
    return state


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


def test_the_names_before_version_2_load_too() -> None:
    state = {
        re.sub(r"bbox_head\.conv_(cls|reg|centerness)", r"bbox_head.fcos_\1", key): value
        for key, value in _as_published("FCOS_MM_R_50_1x").items()
    }
    zoo.load_checkpoint(zoo.build("FCOS_MM_R_50_1x"), state)


def test_towers_have_a_bias_only_in_the_improved_ones() -> None:
    assert "head.cls_tower.0.conv.bias" not in zoo.build("FCOS_MM_R_50_1x").state_dict()
    assert "head.cls_tower.0.conv.bias" in zoo.build("FCOS_MM_R_50_imprv_1x").state_dict()
