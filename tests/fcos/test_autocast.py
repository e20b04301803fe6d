"""Training under autocast: what is computed in lower precision, and how far it is from float32."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fcos import Detector
from fcos.head import GroupNorm

Build = Callable[..., Detector]
Target = dict[str, Tensor]


def losses_and_gradients(
    detector: Detector, image: Tensor, target: Target, autocast: bool
) -> tuple[dict[str, float], Tensor]:
    detector.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        losses = detector([image], [target])
    torch.stack(list(losses.values())).sum().backward()
    gradients = [p.grad.flatten() for p in detector.parameters() if p.grad is not None]
    return {name: float(loss.detach()) for name, loss in losses.items()}, torch.cat(gradients)


def float32_norm(norm: GroupNorm, input: Tensor) -> Tensor:
    """Autocast's own rule for group norm."""
    return nn.GroupNorm.forward(norm, input.float())


def test_losses_and_gradients_are_as_near_to_float32_as_with_float32_norms(
    tiny_detector: Build, picture: Tensor, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = tiny_detector(head={"tower_depth": 2}).train()
    exact, exact_gradient = losses_and_gradients(detector, picture, target, autocast=False)
    ours, our_gradient = losses_and_gradients(detector, picture, target, autocast=True)
    monkeypatch.setattr(GroupNorm, "forward", float32_norm)
    _, usual_gradient = losses_and_gradients(detector, picture, target, autocast=True)
    for name, loss in exact.items():
        assert abs(ours[name] - loss) < 0.01 * loss
    error = float((our_gradient - exact_gradient).norm())
    assert 0 < error < 1.2 * float((usual_gradient - exact_gradient).norm())
    assert error < 0.2 * float(exact_gradient.norm())


def test_group_norm_keeps_half_precision_activations() -> None:
    norm, x = GroupNorm(32, 64), torch.randn(1, 64, 16, 16).bfloat16().requires_grad_()
    saved: list[Tensor] = []
    with (
        torch.autocast("cpu", torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor
        ),
    ):
        y = norm(x)
    assert y.dtype == torch.bfloat16
    assert {tensor.dtype for tensor in saved if tensor.numel() >= x.numel()} == {torch.bfloat16}
    torch.testing.assert_close(y.float(), norm(x.float()), rtol=1e-2, atol=1e-2)
