"""Published names of a backbone's tensors, compared with other implementations of the networks."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from backbones.dla import DLA
from backbones.hrnet import HRNet
from backbones.mobilenet import MobileNetV2
from zoo.formats import backbones as tables
from zoo.formats.backbones import Rule, rename

IMAGE = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def intermediates(model: Any) -> list[Tensor]:
    """timm's features, finest first; its last one is of the coarsest stride."""
    return list(model.forward_intermediates(IMAGE, intermediates_only=True))


def torchvision_features(model: Any) -> list[Tensor]:
    x, features = IMAGE, []
    for index, module in enumerate(model.features):
        x = module(x)
        if index in (6, 13, 17):
            features.append(x)
    return features


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], Any, Any, str]] = {
    "HRNet, timm": (
        lambda: HRNet(18),
        lambda: timm.create_model("hrnet_w18", head=""),
        lambda model: model.stages(model.act2(model.bn2(model.conv2(stem(model))))),
        tables.HRNET,
        "",
    ),
    "DLA-34, timm": (
        DLA,
        lambda: timm.create_model("dla34"),
        lambda model: intermediates(model)[-3:],
        tables.DLA,
        tables.DLA_UNREAD,
    ),
    "MobileNetV2, timm": (
        MobileNetV2,
        lambda: timm.create_model("mobilenetv2_100"),
        lambda model: intermediates(model)[-3:],
        tables.MOBILENET_V2,
        "",
    ),
    "MobileNetV2, torchvision": (
        MobileNetV2,
        lambda: torchvision.models.mobilenet_v2(),
        torchvision_features,
        tables.MOBILENET_V2_TORCHVISION,
        "",
    ),
}


def stem(model: Any) -> Tensor:
    return model.act1(model.bn1(model.conv1(IMAGE)))


def translated(keys: Sequence[str], rules: Sequence[Rule]) -> dict[str, str]:
    """{published: ours} without the classifier; no two published keys have the same name."""
    names = {key: rename(key, rules) for key in keys}
    assert None not in names.values()
    kept = {key: name for key, name in names.items() if name}
    assert len(set(kept.values())) == len(kept)
    return kept


@pytest.mark.parametrize("case", CASES)
def test_the_same_weights_give_the_same_features(case: str) -> None:
    ours, theirs, run, rules, unread = CASES[case]
    torch.manual_seed(0)
    reference, backbone = theirs().eval(), ours().eval()
    published = reference.state_dict()
    for key, value in published.items():
        if key.endswith("running_mean"):
            nn.init.normal_(value, std=0.1)
    names = translated(list(published), rules)
    result = backbone.load_state_dict(
        {name: published[key] for key, name in names.items()}, strict=False
    )
    assert not result.unexpected_keys
    assert all(re.fullmatch(unread, key) for key in result.missing_keys)
    with torch.no_grad():
        for a, b in zip(backbone(IMAGE), run(reference), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()))
