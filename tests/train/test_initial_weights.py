"""What training starts from: a detector for other classes keeps what predicts those it shares."""

import pytest
import torch

import zoo
from zoo.config import build_detector
from zoo.training import initialize_weights, load_pretrained

ENTRY = "FCOS_shapes_tiny"  # circle, square, triangle


def started(classes, source):
    """A detector for these classes, its predictor before, and what was said of its start."""
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
    detector, before, said = started(["star", "triangle", "circle", "cross"], path)
    ours = detector.head.cls_logits
    assert torch.equal(ours.weight[[1, 2]], theirs.weight[[2, 0]])
    assert torch.equal(ours.bias[[1, 2]], theirs.bias[[2, 0]])
    assert torch.equal(ours.weight[[0, 3]], before[[0, 3]])
    assert said.endswith(
        "the class predictor is initialised again, from 3 to 4 classes, "
        "except for the 2 of the same name"
    )


def test_classes_of_other_names_start_anew(source):
    detector, before, said = started(["star", "cross"], source[1])
    assert torch.equal(detector.head.cls_logits.weight, before)
    assert said.endswith("the class predictor is initialised again, from 3 to 2 classes")


def test_a_file_that_does_not_name_its_classes_shares_none(source):
    other = zoo.build(ENTRY, num_classes=2)
    torch.save({"model": other.state_dict()}, source[1])
    detector, before, said = started(["star", "circle"], source[1])
    assert torch.equal(detector.head.cls_logits.weight, before)
    assert said.endswith("initialised again, from 2 to 2 classes")


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
