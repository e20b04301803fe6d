"""Fresh weights are drawn as each system drew them."""

import math

import pytest
import torch

import zoo
from backbones.deformable import DeformConv2d


def deformable(module):
    return [m for m in module.modules() if isinstance(m, DeformConv2d)]


@pytest.mark.parametrize(
    ("entry", "body", "towers"),
    [
        ("FCOS_imprv_dcnv2_R_50_FPN_1x", True, True),  # fcos_core/layers/misc.py and fcos.py
        ("FCOS_MS_X_101_32x8d_2x_dcnv2_iou", False, True),  # detectron2; adet/modeling/fcos/fcos.py
        ("FCOS_MM_R_50_imprv_dcn_1x", False, False),  # mmcv's ModulatedDeformConv2dPack
    ],
)
def test_offsets_begin_at_random_where_they_did(entry, body, towers):
    detector = zoo.build(entry)
    for layer in deformable(detector.backbone):
        # kaiming_uniform_(a=1) reaches to the root of 3 / fan in
        bound = math.sqrt(3 / layer.offset.weight[0].numel()) if body else 0.0
        assert float(layer.offset.weight.detach().abs().max()) == pytest.approx(bound, rel=0.01)
    for layer in deformable(detector.head):
        assert float(layer.offset.weight.detach().std()) == pytest.approx(
            0.01 if towers else 0, rel=0.05
        )
        assert not torch.any(layer.offset.bias)


def test_deformable_towers_keep_their_own_initialisation():
    for layer in deformable(zoo.build("FCOS_imprv_dcnv2_R_50_FPN_1x").head):
        bound = 1 / math.sqrt(layer.weight[0].numel())
        assert float(layer.weight.detach().abs().max()) == pytest.approx(bound, rel=0.01)
        assert not torch.any(layer.bias)


@pytest.mark.parametrize(
    ("entry", "caffe2"),
    [
        ("FCOS_imprv_R_50_FPN_1x", True),  # conv_with_kaiming_uniform
        ("FCOS_R_50_5l_2x", True),  # HRNet-FCOS, with the pyramid of the original
        ("FCOS_MM_HRNet_W18_1x", True),  # caffe2_xavier_init
        ("FCOS_HRNet_W18_5l_2x", False),  # HRFPN.init_weights is never called
        ("FCOS_R_50_noctr_2x", False),  # detector.py draws the head alone
    ],
)
def test_pyramids_begin_as_each_system_left_them(entry, caffe2):
    for layer in zoo.build(entry).pyramid.modules():
        if isinstance(layer, torch.nn.Conv2d):
            fan_in = layer.weight[0].numel()
            bound = math.sqrt((3 if caffe2 else 1) / fan_in)
            assert float(layer.weight.detach().abs().max()) == pytest.approx(bound, rel=0.01)
            assert bool(layer.bias.any()) is not caffe2
