"""Focal, box and quality losses with the weighting and normalisers of each published system."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from backbones.ranges import Count, NotNegative, Share
from fcos.boxes import centerness
from fcos.checked import checked
from fcos.head import Level
from fcos.targets import Targets

PlusOne = Literal["none", "areas", "sides"]
Normalizer = Literal["positives", "moving", "positives+images"]
EPS = 1e-6
# The moving average of the positives of an image: its initial value, AdelaiDet's 100 for the 2
# images of a GPU (fcos_outputs.py), and its momentum.
MOVING_START, MOVING_MOMENTUM = 50.0, 0.9


def ltrb_overlap(pred: Tensor, target: Tensor, plus_one: PlusOne = "none") -> tuple[Tensor, Tensor]:
    """Return IoU and GIoU (n,) of boxes given as distances (n, 4) from the same points.

    `plus_one` smooths the IoU as the published codes do: "areas" adds 1 to intersection and union,
    "sides" adds 1 to every width and height, "none" leaves them. The hull term of GIoU
    (arXiv:1902.09630) is never smoothed.
    """
    side = 1.0 if plus_one == "sides" else 0.0

    def area(ltrb: Tensor) -> Tensor:
        return (ltrb[:, 0] + ltrb[:, 2] + side) * (ltrb[:, 1] + ltrb[:, 3] + side)

    intersection = area(torch.minimum(pred, target))
    union = area(pred) + area(target) - intersection
    hull = area(torch.maximum(pred, target)).clamp(min=EPS)
    if plus_one == "areas":
        iou = (intersection + 1) / (union + 1)
    else:
        iou = intersection / union.clamp(min=EPS)
    return iou, iou - (hull - union) / hull


def box_loss(kind: Literal["giou", "iou", "linear_iou"], iou: Tensor, giou: Tensor) -> Tensor:
    """Return the loss (n,) of each pair by its overlaps: 1 - GIoU, -log IoU or 1 - IoU."""
    if kind == "giou":
        return 1 - giou
    return -iou.clamp(min=EPS).log() if kind == "iou" else 1 - iou


@checked
class Loss(nn.Module):
    """The FCOS loss (arXiv:1904.01355, equation 2).

    Args:
        box: "giou", "iou" (its logarithm) or "linear_iou".
        box_unit: unit of the distances whose overlaps are computed, "stride" or "pixel"; it matters
            only with `plus_one`, see `ltrb_overlap`.
        box_weight: "centerness" weights each location's box loss by its centre-ness target and
            divides by their sum; "none" averages over positives.
        quality: what the quality branch learns: "centerness", "iou" (of the predicted box) or None.
        normalizer: of the focal sum: "positives"; "moving", their moving average, steadier where
            objects are few; or "positives+images".
        normalizer_group: number of consecutive images that share their normalisers; the losses are
            then means over such groups. None: all images of the step, over all processes. Set it to
            the original batch size per GPU for code bases that did not reduce their normalisers
            over GPUs: the groups are those of the whole step, however many processes share it.
        alpha, gamma: parameters of the focal loss (arXiv:1708.02002).

    Attributes:
        moving_positives: moving average of the positive locations of an image, the state of the
            "moving" normaliser. Published weights do not have it, so `state_dict` leaves it out;
            training checkpoints store it separately.
    """

    def __init__(
        self,
        *,
        box: Literal["giou", "iou", "linear_iou"] = "giou",
        box_unit: Literal["stride", "pixel"] = "stride",
        plus_one: PlusOne = "areas",
        box_weight: Literal["centerness", "none"] = "centerness",
        quality: Literal["centerness", "iou"] | None = "centerness",
        normalizer: Normalizer = "positives",
        normalizer_group: Count | None = None,
        alpha: Share = 0.25,
        gamma: NotNegative = 2.0,
    ) -> None:
        super().__init__()
        if normalizer_group is not None and normalizer == "moving":
            raise ValueError(
                f"normalizer_group={normalizer_group} with normalizer='moving', which needs None"
            )
        self.box = box
        self.box_unit = box_unit
        self.plus_one = plus_one
        self.box_weight = box_weight
        self.quality = quality
        self.normalizer = normalizer
        self.normalizer_group = normalizer_group
        self.alpha = alpha
        self.gamma = gamma
        self.moving_positives: Tensor
        self.register_buffer("moving_positives", torch.tensor(MOVING_START), persistent=False)

    def forward(
        self,
        levels: Sequence[Level],
        targets: Sequence[Targets],
        valid: Tensor | None = None,
        normalizers: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the scalars "loss_cls", "loss_box" and, with a quality branch, "loss_quality".

        Args:
            levels: the head's outputs for N images.
            targets: targets of the L locations of each image, in the order of the levels.
            valid: (N, L) bool; locations that are False are left out of the classification loss.
            normalizers: (3, N), divisors to use instead of those of these images, see the method
                `normalizers`.
        """
        logits, ltrb, quality = _flatten(levels)
        labels = torch.stack([t.labels for t in targets])
        target_ltrb = torch.stack([t.ltrb for t in targets])
        positive, weight = labels >= 0, _weights(labels, target_ltrb)
        if normalizers is None:
            own = self._exchange(positive.sum(dim=1), weight.sum(dim=1))

        # Everything up to `own()` overlaps with the exchange between ranks.
        one_hot = labels[..., None] == torch.arange(logits.shape[-1], device=labels.device)
        focal = sigmoid_focal_loss(logits, one_hot.to(logits.dtype), self.alpha, self.gamma)
        if valid is not None:
            focal = focal * valid[..., None]

        image, location = positive.nonzero(as_tuple=True)  # the only wait for the GPU
        pred_ltrb, target_ltrb = ltrb[image, location], target_ltrb[image, location]
        weight = weight[image, location]
        if self.box_unit == "stride":
            stride = _strides(levels)[location][:, None]
            pred_ltrb, target_ltrb = pred_ltrb / stride, target_ltrb / stride
        iou, giou = ltrb_overlap(pred_ltrb, target_ltrb, self.plus_one)
        box = box_loss(self.box, iou, giou)
        if self.box_weight == "centerness":
            box = box * weight

        by_cls, by_box, by_quality = own() if normalizers is None else normalizers
        losses = {
            "loss_cls": (focal.sum(dim=(1, 2)) / by_cls).sum(),
            "loss_box": (box / by_box[image]).sum(),
        }
        if quality is not None:
            aim = weight if self.quality == "centerness" else iou.detach()
            error = F.binary_cross_entropy_with_logits(
                quality[image, location], aim, reduction="none"
            )
            losses["loss_quality"] = (error / by_quality[image]).sum()
        return losses

    def normalizers(self, targets: Sequence[Targets]) -> Tensor:
        """Return (3, N): what each image's classification, box and quality losses are divided by.

        With gradient accumulation, each micro-batch gets those of the whole step, so that the
        gradients of the micro-batches add up to the step's.
        """
        positives = torch.stack([(t.labels >= 0).sum() for t in targets])
        return self._exchange(positives, torch.stack([_weights(*t).sum() for t in targets]))()

    def _exchange(self, positives: Tensor, weight: Tensor) -> Callable[[], Tensor]:
        """Start adding up the (N,) sums of each image over its group; the returned function waits
        for the other processes and gives the (3, N) normalisers."""
        images = len(positives)
        rank, world = _rank_and_world()
        sums = torch.stack((positives.float(), weight, torch.ones_like(weight)))
        # Images are numbered over the whole step, of which each process has an equal share.
        size = self.normalizer_group or images * world
        groups = -(-images * world // size)
        group = (rank * images + torch.arange(images, device=sums.device)) // size
        totals = sums.new_zeros(3, groups).index_add(1, group, sums)
        wait = _sum_over_ranks(totals)

        def normalizers() -> Tensor:
            positives, weight, together = wait().clamp(min=EPS)[:, group]
            by_cls = by_box = by_quality = positives.clamp(min=1)
            if self.normalizer == "moving":
                kept = MOVING_MOMENTUM * self.moving_positives
                new = (1 - MOVING_MOMENTUM) * by_cls[0] / together[0]
                self.moving_positives.copy_(kept + new)
                by_cls = self.moving_positives * together
            elif self.normalizer == "positives+images":
                by_cls = (positives + together).clamp(min=1)
            if self.box_weight == "centerness":
                by_box = weight
            # The loss is a mean over groups, but gradients are averaged over processes.
            return torch.stack((by_cls, by_box, by_quality)) * (groups / world)

        return normalizers


def _weights(labels: Tensor, ltrb: Tensor) -> Tensor:
    """Return (..., L): the centre-ness of locations with a box, 0 for the others."""
    return torch.where(labels >= 0, centerness(ltrb), 0.0)


def _rank_and_world() -> tuple[int, int]:
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def _sum_over_ranks(values: Tensor) -> Callable[[], Tensor]:
    """Start one exchange of all normalisers; the returned function waits for its result."""
    if _rank_and_world()[1] == 1:
        return lambda: values
    work = dist.all_reduce(values, async_op=True)

    def wait() -> Tensor:
        work.wait()
        return values

    return wait


def _flatten(levels: Sequence[Level]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Concatenate levels: logits (N, L, C), ltrb (N, L, 4), quality (N, L) or None, in float32."""
    logits = torch.cat([lv.logits.flatten(2) for lv in levels], dim=2).transpose(1, 2)
    ltrb = torch.cat([lv.ltrb.flatten(2) for lv in levels], dim=2).transpose(1, 2)
    if levels[0].quality is None:
        return logits, ltrb, None
    qualities = [lv.quality.flatten(1) for lv in levels if lv.quality is not None]
    return logits, ltrb, torch.cat(qualities, dim=1)


def _strides(levels: Sequence[Level]) -> Tensor:
    """Return the stride (L,) of each location."""
    return torch.cat([lv.ltrb.new_full((lv.ltrb[0, 0].numel(),), lv.stride) for lv in levels])
