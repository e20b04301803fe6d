"""What holds for every backbone: the protocol; folded norms and frozen stages where it has them."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from backbones import Backbone
from backbones.dla import DLA
from backbones.hrnet import HRNet
from backbones.layers import ConvNorm, FrozenBatchNorm2d
from backbones.mobilenet import MobileNetV2
from backbones.resnet import ResNet
from backbones.timm import TimmBackbone
from backbones.tiny import TinyNet
from backbones.vovnet import VoVNet

SLIM: dict[str, Any] = {
    "blocks": (1, 1, 1, 2),
    "layers_per_block": 2,
    "stage_widths": (16, 16, 24, 24),
    "stage_channels": (32, 48, 64, 64),
}


class Plain(nn.Module):
    """A backbone of the protocol only, which has neither norms nor stages."""

    channels, strides = (4, 8), (8, 16)

    def __init__(self, norm: str, frozen_stages: int = 0) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 4, 8, 8), nn.Conv2d(4, 8, 2, 2)

    def forward(self, images: Tensor) -> list[Tensor]:
        height, width = images.shape[2:]
        fine = self.fine(nn.functional.pad(images, (0, -width % 16, 0, -height % 16)))
        features = [fine, self.coarse(fine.relu())]
        sizes = [(-(-height // stride), -(-width // stride)) for stride in self.strides]
        return [each[..., :h, :w] for each, (h, w) in zip(features, sizes, strict=True)]


OURS: dict[str, Callable[..., nn.Module]] = {
    "resnet": lambda **options: ResNet(50, **options),
    "hrnet": lambda **options: HRNet(18, **options),
    "vovnet": lambda **options: VoVNet(**SLIM, ese=True, **options),
    "dla": lambda **options: DLA(**options),
    "mobilenet": lambda **options: MobileNetV2(width=0.5, **options),
    "plain": lambda **options: Plain(**options),
}


@cache
def eval_model(name: str) -> Any:
    torch.manual_seed(0)
    if name == "timm":
        return TimmBackbone("mobilenetv3_small_050").eval()
    return with_statistics(OURS[name](norm="bn")).eval()


def with_statistics(model: nn.Module) -> nn.Module:
    """Norms that do something, as after training."""
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, FrozenBatchNorm2d)):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


@pytest.mark.parametrize("name", [*OURS, "timm"])
@settings(max_examples=5, deadline=None)
@given(height=st.integers(33, 97), width=st.integers(33, 97))
def test_features_have_the_declared_channels_and_strides(
    name: str, height: int, width: int
) -> None:
    model = eval_model(name)
    assert isinstance(model, Backbone)
    with torch.no_grad():
        features = model(torch.rand(1, 3, height, width))
    assert [tuple(feature.shape) for feature in features] == [
        (1, channels, -(-height // stride), -(-width // stride))
        for channels, stride in zip(model.channels, model.strides, strict=True)
    ]


@pytest.mark.parametrize("name", OURS)
def test_a_fused_backbone_computes_the_same(name: str) -> None:
    model = copy.deepcopy(eval_model(name))
    image = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        unfused = model(image)
        for module in model.modules():
            if isinstance(module, ConvNorm):
                module.fuse()
        fused = model(image)
    for a, b in zip(unfused, fused, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(a.abs().max()))


@pytest.mark.parametrize("name", OURS)
def test_gradients_reach_everything_but_the_frozen_stages(name: str) -> None:
    model = OURS[name](norm="bn", frozen_stages=2).train()
    features: list[Tensor] = model(torch.rand(2, 3, 64, 96))
    torch.stack([feature.square().mean() for feature in features]).sum().backward()
    untrained = {key for key, p in model.named_parameters() if p.grad is None}
    assert untrained == {key for key, p in model.named_parameters() if not p.requires_grad}
    if not any(isinstance(module, ConvNorm) for module in model.modules()):
        return  # it need not have anything to freeze
    frozen = nn.ModuleList([model.stem, model.stage1 if name == "hrnet" else model.stages[0]])
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    layers = [module for module in frozen.modules() if isinstance(module, ConvNorm)]
    assert layers
    assert all(isinstance(layer.norm, FrozenBatchNorm2d) for layer in layers)
    unused = ("stages.1.project", "stages.2.project") if name == "dla" else ()
    ours = {id(parameter) for parameter in frozen.parameters()}
    others = {key for key, p in model.named_parameters() if p.grad is None and id(p) not in ours}
    assert all(key.startswith(unused) for key in others)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize(("norm", "moves"), [("bn", True), ("eval_bn", False)])
def test_running_statistics_move_in_training_unless_the_norm_says_otherwise(
    name: str, norm: str, moves: bool
) -> None:
    model = OURS[name](norm=norm, frozen_stages=0).train()
    model(torch.rand(2, 3, 64, 64))
    moved = {
        key
        for key, value in model.state_dict().items()
        if key.endswith("running_mean") and value.abs().sum() > 0
    }
    unused = {f"stages.{i}.project.norm.running_mean" for i in (1, 2)} if name == "dla" else set()
    every = {key for key in model.state_dict() if key.endswith("running_mean")}
    assert moved == (every - unused if moves else set())


EARLY: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: ResNet(50, frozen_stages=0, out_stages=(2, 3, 4)),
    "vovnet": lambda: VoVNet(**SLIM, norm="bn", out_stages=(2, 3)),
    "dla": lambda: DLA(out_stages=(2, 3)),
    "mobilenet": lambda: MobileNetV2(width=0.5, out_stages=(2, 3)),
    "tiny": lambda: TinyNet(out_stages=(1, 2)),
    "timm": lambda: TimmBackbone("mobilenetv3_small_050", strides=(4, 8)),
}


@pytest.mark.parametrize("name", EARLY)
def test_stages_behind_the_last_returned_one_are_not_built(name: str) -> None:
    model = EARLY[name]().train()
    features = model(torch.rand(2, 3, 64, 96))
    assert [feature.shape[1] for feature in features] == list(model.channels)
    torch.stack([feature.square().mean() for feature in features]).sum().backward()
    # DistributedDataParallel waits for the gradient of every trained parameter.
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    assert [key for key, p in trained.items() if p.grad is None] == []


def test_an_unknown_stage_is_refused() -> None:
    with pytest.raises(ValueError, match=r"out_stages \[3, 6\]: ResNet has stages 2 to 5"):
        ResNet(50, out_stages=(3, 6))


def test_timm_backbone_takes_any_model_with_features() -> None:
    by_stride = TimmBackbone("mobilenetv3_small_050", strides=(4, 16))
    assert by_stride.strides == (4, 16)
    by_index = TimmBackbone("mobilenetv3_small_050", out_indices=(1, 3))
    assert (by_index.strides, by_index.channels) == ((4, 16), by_stride.channels)


def test_timm_features_with_the_channels_last_are_turned() -> None:
    swin = TimmBackbone(
        "swin_tiny_patch4_window7_224",
        img_size=(64, 96),
        window_size=2,
        embed_dim=16,
        depths=(1, 1, 1, 1),
        num_heads=(1, 1, 2, 2),
    ).eval()
    with torch.no_grad():
        features = swin(torch.rand(1, 3, 64, 96))
    assert [feature.shape[1:] for feature in features] == [(32, 8, 12), (64, 4, 6), (128, 2, 3)]


def test_timm_model_without_the_stride_is_refused() -> None:
    with pytest.raises(ValueError, match=r"none at \[64\]"):
        TimmBackbone("mobilenetv3_small_050", strides=(8, 64))


def test_missing_timm_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"fcos-zoo\[timm\]"):
        TimmBackbone("resnet18")
