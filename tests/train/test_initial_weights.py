"""What training starts from: weights as each system drew them, or those of another detector."""

import math

import pytest
import torch
from tiny_detector import ENTRY  # of circle, square, triangle

import zoo
from backbones.deformable import DeformConv2d
from zoo import initial_weights
from zoo.config import build_detector, compose_entry
from zoo.initial_weights import initialize_weights, load_pretrained


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
        ("FCOS_R_50_noctr_2x", False),  # its detector.py initialises only the head
    ],
)
def test_pyramids_begin_as_each_system_left_them(entry, caffe2):
    for layer in zoo.build(entry).pyramid.modules():
        if isinstance(layer, torch.nn.Conv2d):
            fan_in = layer.weight[0].numel()
            bound = math.sqrt((3 if caffe2 else 1) / fan_in)
            assert float(layer.weight.detach().abs().max()) == pytest.approx(bound, rel=0.01)
            assert bool(layer.bias.any()) is not caffe2


def started(classes, source):
    """A detector for these classes, its predictor before, and the line of the log."""
    config = zoo.card(ENTRY).config
    detector = build_detector({**config, "classes": classes})
    before = detector.head.cls_logits.weight.clone()
    return detector, before, load_pretrained(detector, str(source), config)


@pytest.fixture
def source(tmp_path):
    detector = zoo.build(ENTRY)
    torch.nn.init.normal_(detector.head.cls_logits.bias)
    torch.save({"model": detector.state_dict(), "classes": detector.classes}, tmp_path / "s.pth")
    return detector.head.cls_logits, tmp_path / "s.pth"


def test_classes_of_the_same_name_are_kept(source):
    theirs, path = source
    detector, before, line = started(["star", "triangle", "circle", "cross"], path)
    ours = detector.head.cls_logits
    assert torch.equal(ours.weight[[1, 2]], theirs.weight[[2, 0]])
    assert torch.equal(ours.bias[[1, 2]], theirs.bias[[2, 0]])
    assert torch.equal(ours.weight[[0, 3]], before[[0, 3]])
    assert line.endswith(
        "the class predictor is initialised again, from 3 to 4 classes, "
        "except for the 2 of the same name"
    )


def test_classes_of_other_names_are_initialised_again(source):
    detector, before, line = started(["star", "cross"], source[1])
    assert torch.equal(detector.head.cls_logits.weight, before)
    assert line.endswith("the class predictor is initialised again, from 3 to 2 classes")


def test_a_file_that_does_not_name_its_classes_shares_none(source):
    other = zoo.build(ENTRY, num_classes=2)
    torch.save({"model": other.state_dict()}, source[1])
    detector, before, line = started(["star", "circle"], source[1])
    assert torch.equal(detector.head.cls_logits.weight, before)
    assert line.endswith("initialised again, from 2 to 2 classes")


def test_a_model_without_known_imagenet_weights_starts_from_random_ones():
    config = zoo.card(ENTRY).config
    assert config["init"] == {"checkpoint": None, "backbone": "auto"}
    detector = zoo.build(ENTRY)
    before = detector.state_dict()
    message = initialize_weights(detector, {**config, "imagenet": None})
    assert message == "no ImageNet weights are known for this model: started from random weights"
    assert all(torch.equal(value, before[key]) for key, value in detector.state_dict().items())


def test_torchvisions_detector_knows_all_of_cocos_classes():
    """It counts 91, of which some have no name: training on COCO is for the 80 that have one."""
    named = zoo.card("FCOS_R_50_1x").config["classes"]
    assert set(named) < set(zoo.card("FCOS_TV_R_50").config["classes"])


@pytest.mark.parametrize("chosen", ["auto", "imagenet"])
def test_another_backbone_starts_from_its_own_weights(monkeypatch, chosen):
    loaded = []
    monkeypatch.setattr(initial_weights, "load_backbone", lambda *given: loaded.append(given[1]))
    config = compose_entry("FCOS_R_50_1x", ["backbone=resnet101", f"init.backbone={chosen}"])
    line = initialize_weights(zoo.build("FCOS_R_50_1x"), config)
    assert loaded == ["msra_r101"]
    assert line.startswith("started the backbone from msra_r101")
