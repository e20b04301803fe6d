"""torchvision's FCOS of the zoo computes what torchvision's own code computes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import fcos_resnet50_fpn
from torchvision.models.detection.fcos import FCOS
from torchvision.ops import box_iou
from torchvision.ops.misc import FrozenBatchNorm2d
from torchvision.transforms.functional import to_pil_image

import zoo
from fcos import Detector, ShortestSide


@pytest.fixture(scope="module")
def pair() -> tuple[FCOS, Detector]:
    """Both networks with one set of random weights that has detections."""
    torch.manual_seed(0)
    theirs = fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91)
    for module in list(theirs.modules()):
        for name, child in module.named_children():
            if isinstance(child, torch.nn.BatchNorm2d):  # as in the published weights
                frozen = FrozenBatchNorm2d(child.num_features)
                frozen.running_mean.normal_(0, 0.05)
                frozen.running_var.uniform_(0.8, 1.2)
                setattr(module, name, frozen)
    head = theirs.head
    with torch.no_grad():
        head.classification_head.cls_logits.weight.normal_(0, 0.05)
        head.classification_head.cls_logits.bias.fill_(-2)
        head.regression_head.bbox_reg.weight.normal_(0, 0.03)
        head.regression_head.bbox_reg.bias.fill_(2)
    ours = zoo.build("FCOS_TV_R_50")
    zoo.load_checkpoint(ours, theirs.state_dict())
    theirs.transform.min_size, theirs.transform.max_size = (160,), 224
    ours.resize = ShortestSide(160, 224, "floor")
    return theirs, ours


def _image(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(height)
    return torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("size", [(120, 150), (201, 131)])
def test_detections_are_torchvisions(pair: tuple[FCOS, Detector], size: tuple[int, int]) -> None:
    theirs, ours = (model.eval() for model in pair)
    image = _image(*size)
    with torch.no_grad():
        expected = theirs([image.float() / 255])[0]
    detections = ours.detect(to_pil_image(image))[0]
    assert len(expected["scores"]) > 20
    torch.testing.assert_close(detections.scores, expected["scores"], atol=1e-5, rtol=1e-4)
    # Equal scores may change places: every box has its equal among those of its class.
    overlap = box_iou(expected["boxes"], detections.boxes)
    overlap[expected["labels"][:, None] != detections.labels] = 0
    assert bool((overlap.amax(dim=1) > 0.999).all())


def test_losses_are_torchvisions(pair: tuple[FCOS, Detector]) -> None:
    theirs, ours = (model.train() for model in pair)
    image = _image(160, 224).float() / 255  # the size that torchvision resizes to
    target = {
        "boxes": torch.tensor([[10.0, 20.0, 100.0, 150.0], [50.0, 10.0, 220.0, 140.0]]),
        "labels": torch.tensor([3, 90]),
    }
    expected = theirs([image], [target])
    losses = ours([image], [target])
    for name, their_name in {
        "loss_cls": "classification",
        "loss_box": "bbox_regression",
        "loss_quality": "bbox_ctrness",
    }.items():
        torch.testing.assert_close(losses[name], expected[their_name], rtol=1e-4, atol=1e-6)
