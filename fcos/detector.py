"""The detector: images -> backbone -> pyramid -> head -> boxes, or losses while training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from backbones import Backbone
from fcos.boxes import Size, level_points
from fcos.detections import Detections, class_names
from fcos.head import Head, Level, map_size
from fcos.inference import check_compiler, fuse_norms
from fcos.losses import Loss
from fcos.postprocess import Candidates, Decoder, concatenate
from fcos.preprocess import (
    ImageBatch,
    ImageNormalizer,
    LongestSide,
    ResizeMethod,
    ShortestSide,
    check_image,
    load_image,
    resize_image,
)
from fcos.pyramid import Pyramid
from fcos.targets import TargetAssigner, Targets, check_targets
from fcos.tta import Augmentation, flip_boxes, rescale_boxes

Scale = tuple[float, float]  # y, x
Picture = str | Path | Image.Image | np.ndarray | Tensor


class Detector(nn.Module):
    """FCOS (arXiv:1904.01355), composed of plain parts, with torchvision's calling convention.

    Args:
        backbone, pyramid, head: the network.
        normalizer: normalisation and padding of the input.
        resize: the test-time resize of `detect`.
        assigner, loss: training targets and losses.
        decoder: from head outputs to boxes.
        classes: names by index.
        point_offset: of a cell's image point, see `boxes.level_points`.
        point_spacing: between image points: the level's "stride", or the input's size over the
            "map"'s, rounded down, which differs where padding made the map larger (torchvision).
        ignore_padding: locations outside of the image neither learn nor detect.
        resize_method: see `preprocess.resize_image`.
    """

    def __init__(
        self,
        backbone: Backbone,
        pyramid: Pyramid,
        head: Head,
        *,
        normalizer: ImageNormalizer,
        resize: ShortestSide | LongestSide,
        assigner: TargetAssigner,
        loss: Loss,
        decoder: Decoder,
        classes: Sequence[str],
        point_offset: float = 0.5,
        point_spacing: Literal["stride", "map"] = "stride",
        ignore_padding: bool = False,
        resize_method: ResizeMethod = "pil",
    ) -> None:
        super().__init__()
        if len(classes) != head.num_classes:
            raise ValueError(f"{len(classes)} class names for a head of {head.num_classes} classes")
        self.backbone = backbone
        self.pyramid = pyramid
        self.head = head
        self.normalizer = normalizer
        self.resize = resize
        self.assigner = assigner
        self.loss = loss
        self.decoder = decoder
        self.classes = tuple(classes)
        self.point_offset = point_offset
        self.point_spacing = point_spacing
        self.ignore_padding = ignore_padding
        self.resize_method = resize_method
        self.card: Any = None
        self.fused = False

    def fuse(self) -> Detector:
        """Fold the batch norms of the backbone into its convolutions, for faster inference.

        It is for good: the detector stays in eval mode, and its state has other keys than the
        entry's, so load weights before this and save them before it.
        """
        self.eval()
        fuse_norms(self)
        self.fused = True
        return self

    def compile_network(self, mode: str | None = None) -> Detector:
        """Compile backbone, pyramid and head in place, for images of every size.

        Inputs are padded as before, so that results are those of the eager network up to rounding.

        Args:
            mode: of `torch.compile`. "reduce-overhead" captures CUDA graphs, one for each size that
                it meets: a padded batch has sides in multiples of 32, about 40 sizes on COCO.

        Raises:
            RuntimeError: the detector is on a CPU, and there is no C++ compiler.
        """
        check_compiler(self.normalizer.mean.device)
        for part in (self.backbone, self.pyramid, self.head):
            part.compile(dynamic=True, mode=mode)  # type: ignore[union-attr]
        return self

    def train(self, mode: bool = True) -> Detector:
        """Training mode; RuntimeError if the norms are fused."""
        if mode and self.fused:
            raise RuntimeError(
                "a fused detector cannot be trained, its norms are folded into the convolutions: "
                "build it again and leave out `fuse()`"
            )
        return super().train(mode)

    def forward(
        self,
        images: Sequence[Tensor],
        targets: Sequence[dict[str, Tensor]] | None = None,
        normalizers: Tensor | None = None,
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training mode, detections in eval mode.

        Args:
            images: N tensors (3, H, W), RGB, uint8 0..255 or float 0..1; never resized.
            targets: in training, N of {"boxes": (n, 4) xyxy pixels, "labels": (n,) int64 from 0};
                "picture", (4,) xyxy, is the part of an image that is none of its own padding.
            normalizers: of the losses, instead of these images' own (see `Loss.normalizers`).

        Returns:
            Training: {"loss_cls", "loss_box", "loss_quality" (with a quality branch)}, scalars.
            Eval: N of {"boxes": (n, 4), "scores": (n,), "labels": (n,)}, best first, in pixels of
            the images as given.

        Raises:
            ValueError, TypeError: naming the image or target at fault.
        """
        if not self.training:
            with torch.no_grad():
                batch = self.normalizer(images)
                return self.decode(self.network(batch), batch)
        if targets is None:
            raise ValueError("training needs targets: one {'boxes', 'labels'} per image")
        check_targets(targets, len(images), len(self.classes))
        batch = self.normalizer(images)
        boxes = self.place(targets, batch.offsets)  # now: a copy waits for what a GPU has to do
        levels = self.network(batch)
        points = self.points(levels, batch)
        assigned = self.assign(points, boxes)
        return self.loss(levels, assigned, self.valid(points, batch, targets), normalizers)

    def levels(self, images: Sequence[Tensor]) -> list[Level]:
        """The head's raw outputs for images as `forward` takes them, one per pyramid level."""
        return self.network(self.normalizer(images))

    def place(
        self, targets: Sequence[dict[str, Tensor]], offsets: Sequence[Size]
    ) -> list[tuple[Tensor, Tensor]]:
        """Boxes (n, 4) in the batch's pixels and labels (n,) of each image, on the device.

        `offsets` (top, left) say where the images lie in the batch.
        """
        device = self.normalizer.mean.device
        placed = []
        for target, (top, left) in zip(targets, offsets, strict=True):
            boxes = target["boxes"].float()
            boxes = boxes + boxes.new_tensor([left, top, left, top])
            placed.append((boxes.to(device), target["labels"].to(device)))
        return placed

    def assign(
        self, points: Sequence[Tensor], placed: Sequence[tuple[Tensor, Tensor]]
    ) -> list[Targets]:
        """What each image's locations, the (L_i, 2) points of each level, are to learn."""
        return [self.assigner(points, self.head.strides, *image) for image in placed]

    def detect(
        self,
        images: Picture | Sequence[Picture],
        score_threshold: float = 0.0,
        batch_size: int = 1,
        tta: Sequence[Augmentation] = (),
    ) -> list[Detections]:
        """Find objects in pictures: the published test-time resize, the network, and back.

        Args:
            images: a picture or several: paths, PIL images, uint8 (H, W, 3) arrays, (3, H, W)
                tensors, or an (N, 3, H, W) tensor.
            score_threshold: only detections of at least this score.
            batch_size: images a forward pass; more than one pads images of different shape, which
                changes results near their borders a little.
            tta: test-time augmentation, such as `fcos.TTA_MULTI_SCALE`.

        Returns:
            One `Detections` per picture, boxes in its own pixels.
        """
        if isinstance(images, (str, Path, Image.Image, np.ndarray)):
            images = [images]
        elif isinstance(images, Tensor):
            images = [images] if images.ndim == 3 else list(images)
        if len(images) == 0:
            raise ValueError("no images: pass at least one picture to `detect`")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        if self.training:
            raise RuntimeError(
                "the detector is in training mode, where norms follow the images: call "
                "`detector.eval()` before `detect`"
            )
        detections = []
        for start in range(0, len(images), batch_size):
            pictures = [load_image(image) for image in images[start : start + batch_size]]
            for index, picture in enumerate(pictures, start):
                check_image(picture, index)
            with torch.inference_mode():
                found = self.find(pictures, tta)
            for picture, one in zip(pictures, found, strict=True):
                detections.append(self._over(score_threshold, one, picture))
        return detections

    def _over(self, threshold: float, found: dict[str, Tensor], picture: Tensor) -> Detections:
        """Detections of at least this score, in tensors that can be changed."""
        n = int((found["scores"] >= threshold).sum())
        boxes, scores, labels = (found[key][:n].clone() for key in ("boxes", "scores", "labels"))
        return Detections(boxes, scores, labels, class_names(labels, self.classes), picture)

    def find(
        self, images: Sequence[Tensor], tta: Sequence[Augmentation] = ()
    ) -> list[dict[str, Tensor]]:
        """`forward` in eval mode, with the model's test-time resize.

        Args:
            images: N tensors (3, H, W), RGB, uint8 0..255 or float 0..1.
            tta: augmented copies of each image to detect in as well.

        Returns:
            {"boxes": (n, 4), "scores": (n,), "labels": (n,)} of each image, best first, in its own
            pixels.
        """
        batch, originals, scales = self.prepare(images)
        candidates = [self.candidates(self.network(batch), batch)]
        for augmentation in tta:
            copies, _, back = self.prepare(images, augmentation)
            found = self.candidates(self.network(copies), copies)
            if augmentation.flip:
                found = flip_boxes(found, copies.sizes, self.decoder.plus_one)
            factors = [(y / fy, x / fx) for (y, x), (fy, fx) in zip(back, scales, strict=True)]
            candidates.append(rescale_boxes(found, factors))
        return self.decoder.detections(concatenate(candidates), originals, scales)

    def prepare(
        self, images: Sequence[Tensor], augmentation: Augmentation | None = None
    ) -> tuple[ImageBatch, list[Size], list[Scale]]:
        """Resize (3, H, W) images to the test-time size, augment them, and batch them.

        Returns:
            The batch, the (height, width) of the images as given, and for each the (y, x) factors
            from the resized image back to it.
        """
        augmentation = augmentation or Augmentation()
        resize = self.resize.scaled(augmentation.scale, augmentation.limit)
        originals = [(image.shape[-2], image.shape[-1]) for image in images]
        resized = [
            resize_image(image, resize(*size), self.resize_method, self.normalizer.mean.device)
            for image, size in zip(images, originals, strict=True)
        ]
        if augmentation.flip:
            resized = [image.flip(-1) for image in resized]
        batch = self.normalizer(resized)
        pairs = zip(originals, batch.sizes, strict=True)
        return batch, originals, [resize.back(original, fed) for original, fed in pairs]

    def network(self, batch: ImageBatch) -> list[Level]:
        """Backbone, pyramid and head."""
        x = batch.tensor.to(self.head.cls_logits.weight.dtype)
        return self.head(self.pyramid(self.backbone(x)))

    def decode(
        self,
        levels: Sequence[Level],
        batch: ImageBatch,
        sizes: Sequence[Size] | None = None,
        scales: Sequence[Scale] | None = None,
    ) -> list[dict[str, Tensor]]:
        """The detections of each image; see `Decoder.detections`.

        Args:
            levels: the head's outputs for the batch.
            batch: where each image lies in the network's input.
            sizes: (height, width) of the images that the boxes are for; default: as fed.
            scales: (y, x) factors from the images as fed to those images; default 1.
        """
        return self.decoder.detections(self.candidates(levels, batch), sizes or batch.sizes, scales)

    def candidates(self, levels: Sequence[Level], batch: ImageBatch) -> Candidates:
        """The scored boxes that go into NMS, in pixels of the images as fed."""
        points = self.points(levels, batch)
        return self.decoder.candidates(levels, points, batch, self.valid(points, batch))

    def points(self, levels: Sequence[Level], batch: ImageBatch) -> list[Tensor]:
        """Image points (L_i, 2) as (x, y) of each level's locations, in the batch's pixels."""
        points = []
        for level in levels:
            size = map_size(level)
            spacing = (level.stride, level.stride)
            if self.point_spacing == "map":
                height, width = batch.tensor.shape[-2:]
                spacing = (height // size[0], width // size[1])
            points.append(level_points(size, spacing, self.point_offset, level.logits.device))
        return points

    def valid(
        self,
        points: Sequence[Tensor],
        batch: ImageBatch,
        targets: Sequence[dict[str, Tensor]] | None = None,
    ) -> Tensor | None:
        """(N, L) whether a location lies in the picture, borders included; None where all count."""
        if not self.ignore_padding:
            return None
        x, y = torch.cat(list(points)).unbind(1)
        inside = []
        for target, (height, width), (top, left) in zip(
            targets or [{}] * len(batch.sizes), batch.sizes, batch.offsets, strict=True
        ):
            picture = target.get("picture")
            x1, y1, x2, y2 = (0, 0, width, height) if picture is None else picture.tolist()
            inside.append((y >= top + y1) & (y <= top + y2) & (x >= left + x1) & (x <= left + x2))
        return torch.stack(inside)
