"""Losses: overlaps against torchvision, values worked out by hand, and finite everywhere."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import box_iou, generalized_box_iou

from fcos import Level, Loss
from fcos.boxes import ltrb_to_boxes
from fcos.losses import ltrb_overlap
from fcos.targets import Targets

distances = st.tuples(*[st.floats(0.5, 500, width=32)] * 4)


@given(distances, distances)
def test_overlaps_are_torchvisions(pred: tuple[float, ...], target: tuple[float, ...]) -> None:
    iou, giou = ltrb_overlap(torch.tensor([pred]), torch.tensor([target]))
    origin = torch.zeros(1, 2)
    boxes = [ltrb_to_boxes(origin, torch.tensor([ltrb])) for ltrb in (pred, target)]
    torch.testing.assert_close(iou, box_iou(*boxes)[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(giou, generalized_box_iou(*boxes)[0], rtol=1e-4, atol=1e-5)


def test_overlaps_are_smoothed_as_each_published_code_does() -> None:
    pred, target = torch.tensor([[1.0, 1, 1, 1]]), torch.tensor([[1.0, 1, 3, 1]])
    assert float(ltrb_overlap(pred, target, "none")[0]) == pytest.approx(4 / 8)
    assert float(ltrb_overlap(pred, target, "areas")[0]) == pytest.approx(5 / 9)
    assert float(ltrb_overlap(pred, target, "sides")[0]) == pytest.approx(9 / 15)


# One level of stride 8 with two locations in each of two images; classes are two. In the first
# image location 0 learns class 1 and a box of 8 x 8, of which 8 x 4 is predicted.
LTRB = [[4.0, 4.0, 4.0, 4.0], [4.0, 2.0, 4.0, 2.0]]  # what is to be learned, what is predicted
TARGET_WITH_CENTERNESS_HALF = [1.0, 2.0, 4.0, 2.0]


def levels(logit: float = 0.0, ltrb: list[float] = LTRB[1], quality: float | None = 0.0) -> Any:
    logits = torch.full((2, 2, 1, 2), logit, requires_grad=True)
    boxes = torch.tensor(ltrb).view(1, 4, 1, 1).repeat(2, 1, 1, 2).requires_grad_()
    head = None if quality is None else torch.full((2, 1, 1, 2), quality, requires_grad=True)
    return [Level(8, logits, boxes, head)]


def targets(labels: tuple[tuple[int, int], ...], ltrb: list[float] = LTRB[0]) -> list[Targets]:
    boxes = torch.tensor([ltrb, ltrb])
    return [Targets(torch.tensor(of_image), boxes) for of_image in labels]


def values(losses: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(loss.detach()) for name, loss in losses.items()}


ONE_POSITIVE = ((1, -1), (-1, -1))
# -alpha (1 - p)^gamma log p for p = 1/2, and the same with 1 - alpha for the negatives.
FOCAL_POSITIVE = 0.25 * 0.25 * math.log(2)
FOCAL_NEGATIVE = 0.75 * 0.25 * math.log(2)
FOCAL_1, FOCAL_2 = FOCAL_POSITIVE + 3 * FOCAL_NEGATIVE, 4 * FOCAL_NEGATIVE  # of each image
FOCAL_SUM = FOCAL_1 + FOCAL_2


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"normalizer": "positives"}, FOCAL_SUM / 1),
        ({"normalizer": "positives+images"}, FOCAL_SUM / 3),
        ({"normalizer": "moving"}, FOCAL_SUM / (0.9 * 100 + 0.1 * 1)),
        ({"normalizer_group": 1}, FOCAL_SUM / 2),
        (
            {"normalizer_group": 1, "normalizer": "positives+images"},
            (FOCAL_1 / 2 + FOCAL_2 / 1) / 2,
        ),
    ],
)
def test_each_normaliser_divides_the_focal_sum_its_own_way(
    options: dict[str, Any], expected: float
) -> None:
    loss = Loss(box_weight="none", quality=None, **options)
    losses = values(loss(levels(quality=None), targets(ONE_POSITIVE)))
    assert losses["loss_cls"] == pytest.approx(expected)
    assert set(losses) == {"loss_cls", "loss_box"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"box": "linear_iou", "plus_one": "none"}, 1 - 32 / 64),
        ({"box": "iou", "plus_one": "none"}, math.log(64 / 32)),
        ({"box": "giou", "plus_one": "none"}, 1 - 32 / 64),  # the hull is the target: no more
        ({"box": "iou", "plus_one": "areas"}, math.log(2 / 1.5)),  # 1 and 1/2 in squared strides
        ({"box": "iou", "plus_one": "areas", "box_unit": "pixel"}, math.log(65 / 33)),
        ({"box": "iou", "plus_one": "sides", "box_unit": "pixel"}, math.log(81 / 45)),
    ],
)
def test_box_losses_of_one_positive(options: dict[str, Any], expected: float) -> None:
    losses = values(Loss(**options)(levels(), targets(ONE_POSITIVE)))
    assert losses["loss_box"] == pytest.approx(expected)


def test_box_losses_are_weighted_by_centerness_and_averaged_by_its_sum() -> None:
    assigned = targets(((0, 1), (-1, -1)))
    assigned[0].ltrb[1] = torch.tensor(TARGET_WITH_CENTERNESS_HALF)
    first = 1 - 32 / 64
    second = 1 - 20 / (5 * 4 + 8 * 4 - 20)  # the prediction covers the target
    weighted = values(Loss(box="linear_iou", plus_one="none")(levels(), assigned))
    assert weighted["loss_box"] == pytest.approx((first + 0.5 * second) / 1.5)
    plain = values(Loss(box="linear_iou", plus_one="none", box_weight="none")(levels(), assigned))
    assert plain["loss_box"] == pytest.approx((first + second) / 2)


@pytest.mark.parametrize(("quality", "aim"), [("centerness", 1.0), ("iou", 0.5)])
def test_the_quality_branch_learns_centerness_or_iou(quality: Any, aim: float) -> None:
    loss = Loss(plus_one="none", quality=quality)
    losses = values(loss(levels(quality=1.0), targets(ONE_POSITIVE)))
    probability = 1 / (1 + math.exp(-1))
    expected = -aim * math.log(probability) - (1 - aim) * math.log(1 - probability)
    assert losses["loss_quality"] == pytest.approx(expected)


def test_locations_outside_of_the_image_teach_no_class() -> None:
    valid = torch.tensor([[True, False], [False, False]])
    losses = values(Loss()(levels(), targets(ONE_POSITIVE), valid))
    assert losses["loss_cls"] == pytest.approx(FOCAL_POSITIVE + FOCAL_NEGATIVE)


def mean_over_processes(
    monkeypatch: pytest.MonkeyPatch, world: int, make_loss: Callable[[], Loss]
) -> dict[str, float]:
    """The mean losses of `world` processes that have an equal share of `STEP` each."""
    totals: list[Tensor] = []

    def all_reduce(values: Tensor, async_op: bool) -> Any:
        if len(totals) < world:  # the first round collects what each process has
            totals.append(values.clone())
        else:
            values.copy_(torch.stack(totals).sum(0))
        return SimpleNamespace(wait=lambda: None)

    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: world)
    monkeypatch.setattr("torch.distributed.all_reduce", all_reduce)
    share = len(STEP) // world
    for _ in range(2):
        losses = []
        for rank in range(world):
            monkeypatch.setattr("torch.distributed.get_rank", lambda rank=rank: rank)
            (level,) = levels()
            outputs = [Level(8, *(t[:1].expand(share, -1, -1, -1) for t in level[1:4]))]
            own = targets(STEP[rank * share : (rank + 1) * share])
            losses.append(values(make_loss()(outputs, own)))
    return {name: sum(each[name] for each in losses) / world for name in losses[0]}


STEP = ((1, -1), (-1, -1), (0, 1), (1, -1))  # the labels of four images


@pytest.mark.parametrize(
    ("normalizer", "normalizer_group"),
    [
        ("moving", None),
        *itertools.product(["positives", "positives+images"], [None, 1, 2, 3]),
    ],
)
def test_losses_do_not_depend_on_the_number_of_processes(
    monkeypatch: pytest.MonkeyPatch, normalizer: Any, normalizer_group: int | None
) -> None:
    """Also where a process has fewer images than share a normaliser, or an odd number of them."""

    def make_loss() -> Loss:
        return Loss(normalizer=normalizer, normalizer_group=normalizer_group)

    one = mean_over_processes(monkeypatch, 1, make_loss)
    for world in (2, 4):
        assert mean_over_processes(monkeypatch, world, make_loss) == pytest.approx(one)


ALL_BACKGROUND = ((-1, -1), (-1, -1))
ALL_POSITIVE = ((0, 1), (1, 0))
published_losses = st.fixed_dictionaries(
    {
        "box": st.sampled_from(["giou", "iou", "linear_iou"]),
        "box_unit": st.sampled_from(["stride", "pixel"]),
        "plus_one": st.sampled_from(["none", "areas", "sides"]),
        "box_weight": st.sampled_from(["centerness", "none"]),
        "quality": st.sampled_from(["centerness", "iou"]),
        "normalizer": st.sampled_from(["positives", "positives+images"]),
        "normalizer_group": st.sampled_from([None, 1, 2]),
    }
)


@given(
    published_losses,
    st.sampled_from([ALL_BACKGROUND, ONE_POSITIVE, ALL_POSITIVE]),
    st.sampled_from([-1e4, -30.0, 0.0, 30.0, 1e4]),
    st.sampled_from([0.0, 1e-6, 4.0, 1e8]),
)
def test_losses_and_their_gradients_are_finite(
    options: dict[str, Any], labels: Any, logit: float, distance: float
) -> None:
    outputs = levels(logit, [distance] * 4, logit)
    losses = Loss(**options)(outputs, targets(labels))
    torch.stack(list(losses.values())).sum().backward()
    level = outputs[0]
    for tensor in (*losses.values(), level.logits.grad, level.ltrb.grad, level.quality.grad):
        assert bool(torch.isfinite(tensor).all())


def test_without_positives_only_classes_are_learned() -> None:
    losses = values(Loss()(levels(), targets(ALL_BACKGROUND)))
    nothing = {"loss_box": 0.0, "loss_quality": 0.0}
    assert losses == {"loss_cls": pytest.approx(8 * FOCAL_NEGATIVE), **nothing}


def test_parts_of_a_batch_add_up_to_it_with_its_normalisers() -> None:
    loss, assigned = Loss(), targets(ALL_POSITIVE)
    whole = values(loss(levels(), assigned))
    normalizers = loss.normalizers(assigned)
    (level,) = levels()
    parts = [
        loss(
            [Level(8, level.logits[i : i + 1], level.ltrb[i : i + 1], level.quality[i : i + 1])],
            assigned[i : i + 1],
            normalizers=normalizers[:, i : i + 1],
        )
        for i in range(2)
    ]
    assert values({k: parts[0][k] + parts[1][k] for k in whole}) == pytest.approx(whole)
