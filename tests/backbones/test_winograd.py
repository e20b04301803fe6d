"""3x3 convolutions by Winograd's algorithm."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import zoo
from backbones import winograd
from backbones.layers import AffineConv2d
from backbones.winograd import WinogradConv2d


@pytest.mark.parametrize("size", [(8, 12), (13, 17), (1, 2)])
@pytest.mark.parametrize("bias", [True, False])
def test_it_computes_the_same_as_a_direct_convolution(
    size: tuple[int, int], bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "BAND", 1)  # every row of tiles is computed by itself
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 8, 3, padding=1, bias=bias)
    x = torch.randn(2, 16, *size).to(memory_format=torch.channels_last)
    with torch.no_grad():
        expected, actual = conv(x), WinogradConv2d(conv)(x)
    torch.testing.assert_close(actual, expected, rtol=0, atol=3e-5)
    assert not torch.equal(actual, expected)  # it was another algorithm


def test_a_batch_gives_the_same_as_single_images() -> None:
    conv = WinogradConv2d(nn.Conv2d(8, 8, 3, padding=1))
    x = torch.randn(3, 8, 9, 6)
    with torch.no_grad():
        torch.testing.assert_close(conv(x), torch.cat([conv(image[None]) for image in x]))


def test_loaded_weights_are_used() -> None:
    one, other = (WinogradConv2d(nn.Conv2d(8, 8, 3, padding=1)) for _ in range(2))
    x = torch.randn(1, 8, 8, 8)
    other.load_state_dict(one.state_dict())
    with torch.no_grad():
        assert torch.equal(other(x), one(x))


def test_with_gradients_or_below_float32_it_is_the_direct_convolution() -> None:
    conv = nn.Conv2d(8, 8, 3, padding=1)
    x = torch.randn(1, 8, 8, 8)
    same = WinogradConv2d(conv)
    assert torch.equal(same(x), conv(x))
    with torch.no_grad():
        half = same.bfloat16()
        assert torch.equal(half(x.bfloat16()), conv.bfloat16()(x.bfloat16()))


@pytest.mark.parametrize(
    ("conv", "suits"),
    [
        (nn.Conv2d(128, 64, 3, padding=1), True),
        (AffineConv2d(128, 128, 3, padding=1), True),
        (nn.Conv2d(96, 96, 3, padding=1), True),
        (nn.Conv2d(64, 64, 3, padding=1), False),
        (nn.Conv2d(256, 4, 3, padding=1), False),
        (nn.Conv2d(128, 128, 3, padding=1, stride=2), False),
        (nn.Conv2d(128, 128, 3, padding=2, dilation=2), False),
        (nn.Conv2d(128, 128, 3, padding=1, groups=2), False),
        (nn.Conv2d(128, 128, 1), False),
        (nn.ReLU(), False),
    ],
)
def test_large_3x3_convolutions_are_suitable(conv: nn.Module, suits: bool) -> None:
    assert WinogradConv2d.suits(conv) is suits


def test_a_detector_detects_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "FEWEST_PAIRS", 1)  # those of the small network, too
    image = torch.randint(0, 256, (3, 100, 140), dtype=torch.uint8)
    expected = zoo.get("FCOS_shapes_tiny").detect(image)[0]
    detector = zoo.get("FCOS_shapes_tiny", winograd=True)
    assert sum(isinstance(module, WinogradConv2d) for module in detector.modules()) > 4
    assert detector.use_winograd() is detector  # a second call changes nothing
    actual = detector.detect(image)[0]
    assert len(actual) == len(expected) > 0
    torch.testing.assert_close(actual.boxes, expected.boxes, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(actual.scores, expected.scores, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("options", [{"compile": True}, {"precision": "bf16"}])
def test_zoo_get_refuses_it_where_it_does_nothing(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="for precision 'fp32' on a CPU, without compile=True"):
        zoo.get("FCOS_shapes_tiny", winograd=True, **options)  # type: ignore[arg-type]
