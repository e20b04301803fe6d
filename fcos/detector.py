"""The detector: images -> backbone -> pyramid -> head -> boxes, or losses while training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from backbones import Backbone
from backbones.ranges import Share
from fcos.boxes import Size, inside, level_points
from fcos.checked import checked
from fcos.detections import Detections
from fcos.head import Head, Level
from fcos.images import ImageSource, check_options, image_batches
from fcos.inference import InferenceOptions
from fcos.losses import Loss
from fcos.postprocess import Candidates, Decoder, concatenate
from fcos.preprocess import (
    ImageBatch,
    ImageNormalizer,
    LongestSide,
    ResizeMethod,
    ShortestSide,
    resize_image,
)
from fcos.pyramid import Pyramid
from fcos.targets import TargetAssigner, Targets, check_targets
from fcos.tta import Augmentation, flip_boxes

Scale = tuple[float, float]  # y, x


@checked
class Detector(InferenceOptions):
    """FCOS (arXiv:1904.01355) of interchangeable parts, called like torchvision's detectors.

    Args:
        backbone, pyramid, head: the network.
        normalizer: normalises and pads the input.
        resize: the test-time resize of `detect`.
        assigner, loss: compute training targets and losses.
        decoder: turns head outputs into boxes.
        classes: class names by index.
        point_offset: position of a location within its cell, see `boxes.level_points`.
        point_spacing: distance between locations: the "stride" of the level, or the size of the
            input over that of the "map", rounded down (torchvision).
        ignore_padding: locations in the padding are neither trained nor used for detection.
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
        point_offset: Share = 0.5,
        point_spacing: Literal["stride", "map"] = "stride",
        ignore_padding: bool = False,
        resize_method: ResizeMethod = "pil",
    ) -> None:
        super().__init__()
        if len(classes) != head.num_classes:
            raise ValueError(f"{len(classes)} class names for a head of {head.num_classes} classes")
        if tuple(pyramid.strides) != head.strides:
            raise ValueError(f"a head of strides {head.strides} for a pyramid of {pyramid.strides}")
        if head.quality is not None and loss.quality is None:
            raise ValueError(
                "the loss has quality=None, but the head has a quality branch: set "
                f"quality to what it learns, or quality_on={head.quality_on!r} to None"
            )
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
        self.card: Any = None  # the zoo's facts about the entry
        self.settings: dict[str, Any] | None = None  # the configuration that it was built from

    def forward(
        self,
        images: Sequence[Tensor],
        targets: Sequence[dict[str, Tensor]] | None = None,
        normalizers: Tensor | None = None,
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Return losses in training mode, detections in eval mode.

        Args:
            images: N tensors (3, H, W), RGB, uint8 0..255 or float 0..1; never resized.
            targets: in training, N of {"boxes": (n, 4) xyxy pixels, "labels": (n,) int64 from 0}.
                "picture" (4,) is the xyxy part of an image that is not padding, for images that
                were padded before.
            normalizers: replace those of the losses of these images, see `Loss.normalizers`.

        Returns:
            Training: {"loss_cls", "loss_box", "loss_quality" (with a quality branch)}, scalars.
            Eval: N of {"boxes": (n, 4), "scores": (n,), "labels": (n,)}, best first, in pixels of
            the images as given.

        Raises:
            ValueError, TypeError: an image or target cannot be used; the message names it.
        """
        if not self.training:
            with torch.no_grad():
                batch = self.normalizer(images)
                return self.decode(self.network(batch), batch)
        if targets is None:
            raise ValueError("training needs targets: one {'boxes', 'labels'} per image")
        check_targets(targets, len(images), len(self.classes))
        batch = self.normalizer(images)
        # Before the network, since a copy from unpinned memory waits for all queued kernels.
        boxes = self.place(targets, batch.offsets)
        levels = self.network(batch)
        points = self.points(levels, batch)
        assigned = self.assign(points, boxes)
        return self.loss(levels, assigned, self.valid(points, batch, targets), normalizers)

    def levels(self, images: Sequence[Tensor]) -> list[Level]:
        """Return the head's raw outputs, one per pyramid level, for images as in `forward`."""
        return self.network(self.normalizer(images))

    def place(
        self, targets: Sequence[dict[str, Tensor]], offsets: Sequence[Size]
    ) -> list[tuple[Tensor, Tensor]]:
        """Return boxes (n, 4) in the batch's pixels and labels (n,) of each image, on the device.

        `offsets` (top, left) say where the images lie in the batch.
        """
        device = self.normalizer.mean.device
        shifted = [
            target["boxes"].float() + target["boxes"].float().new_tensor([left, top, left, top])
            for target, (top, left) in zip(targets, offsets, strict=True)
        ]
        boxes = torch.cat(shifted)
        labels = torch.cat([target["labels"] for target in targets])
        if device.type == "cuda" and boxes.device.type == "cpu":
            # Copies from pinned memory do not wait for queued kernels.
            boxes, labels = boxes.pin_memory(), labels.pin_memory()
        boxes, labels = (tensor.to(device, non_blocking=True) for tensor in (boxes, labels))
        counts = [len(of_image) for of_image in shifted]
        return list(zip(boxes.split(counts), labels.split(counts), strict=True))

    def assign(
        self, points: Sequence[Tensor], placed: Sequence[tuple[Tensor, Tensor]]
    ) -> list[Targets]:
        """Return the training targets of each image at the (L_i, 2) points of each level."""
        return [self.assigner(points, self.head.strides, *image) for image in placed]

    def detect(
        self,
        images: ImageSource | Iterable[ImageSource],
        score_threshold: float = 0.0,
        batch_size: int = 1,
        tta: Sequence[Augmentation] = (),
    ) -> list[Detections]:
        """Detect objects in images of any kind and size, with the model's test-time resize.

        Args:
            images: one image or an iterable of them, which may be a generator: paths, bytes, open
                files, PIL images, (H, W, 3) arrays, (3, H, W) tensors, or a batch of the last two.
                Integers are 0..255, floats 0..1; see `images.load_image`.
            score_threshold: the lowest score of a detection.
            batch_size: images per forward pass. In larger batches, images of different shapes are
                padded, which slightly changes results near their borders.
            tta: test-time augmentation, such as `fcos.TTA_MULTI_SCALE`.

        Returns:
            One `Detections` per image, boxes in its own pixels.

        Raises:
            ValueError, TypeError, OSError: an image or an option cannot be used; the message says
                which and why.
            RuntimeError: the detector is in training mode.
        """
        check_options(score_threshold, batch_size)
        tta = tuple(tta)
        detections: list[Detections] = []
        for loaded in image_batches(images, batch_size):
            with torch.inference_mode():
                results = self.find(loaded, tta)
            detections += [
                Detections.of(result, image, self.classes, score_threshold)
                for image, result in zip(loaded, results, strict=True)
            ]
        return detections

    def find(
        self, images: Sequence[Tensor], tta: Sequence[Augmentation] = ()
    ) -> list[dict[str, Tensor]]:
        """Apply `forward` in eval mode with the model's test-time resize.

        Args:
            images: N tensors (3, H, W), RGB, uint8 0..255 or float 0..1.
            tta: augmented copies of each image to detect in as well.

        Returns:
            For each image "boxes" (n, 4) in its own pixels, "scores" (n,) and "labels" (n,), best
            first.

        Raises:
            RuntimeError: the detector is in training mode.
        """
        if self.training:
            raise RuntimeError("the detector is in training mode: call `detector.eval()` first")
        batch, originals, scales = self.prepare(images)
        candidates = [self.candidates(self.network(batch), batch)]
        for augmentation in tta:
            copies, _, back = self.prepare(images, augmentation)
            found = self.candidates(self.network(copies), copies)
            if augmentation.flip:
                found = flip_boxes(found, copies.sizes, self.decoder.plus_one)
            factors = [(y / fy, x / fx) for (y, x), (fy, fx) in zip(back, scales, strict=True)]
            boxes = found.boxes * self.decoder.per_side(factors, found.boxes)
            candidates.append(found._replace(boxes=boxes))
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
        """Apply backbone, pyramid and head."""
        x = batch.tensor.to(self.head.cls_logits.weight.dtype)
        return self.head(self.pyramid(self.backbone(x)))

    def decode(self, levels: Sequence[Level], batch: ImageBatch) -> list[dict[str, Tensor]]:
        """Return the detections of each image, in pixels of the network's input images."""
        return self.decoder.detections(self.candidates(levels, batch), batch.sizes)

    def candidates(self, levels: Sequence[Level], batch: ImageBatch) -> Candidates:
        """Return the scored boxes that go into NMS, in pixels of the network's input images."""
        points = self.points(levels, batch)
        return self.decoder.candidates(levels, points, batch, self.valid(points, batch))

    def points(self, levels: Sequence[Level], batch: ImageBatch) -> list[Tensor]:
        """Return the points (L_i, 2) of each level's locations as (x, y) pixels of the batch."""
        points = []
        for level in levels:
            size = level.logits.shape[-2], level.logits.shape[-1]
            spacing = (level.stride, level.stride)
            if self.point_spacing == "map":
                height, width = batch.tensor.shape[-2:]
                spacing = (height // size[0], width // size[1])
            device = self.normalizer.mean.device
            points.append(level_points(size, spacing, self.point_offset, device))
        return points

    def valid(
        self,
        points: Sequence[Tensor],
        batch: ImageBatch,
        targets: Sequence[dict[str, Tensor]] | None = None,
    ) -> Tensor | None:
        """Return (N, L): whether a location lies in its image, not in padding; None if unused."""
        if not self.ignore_padding:
            return None
        images = []
        for target, (height, width), (top, left) in zip(
            targets or [{}] * len(batch.sizes), batch.sizes, batch.offsets, strict=True
        ):
            part = target.get("picture")
            x1, y1, x2, y2 = (0, 0, width, height) if part is None else part.tolist()
            images.append((left + x1, top + y1, left + x2, top + y2))
        return inside(torch.cat(list(points)), images)
