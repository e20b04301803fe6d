"""What a CPU trains in seconds: a detector and batches for it, and the settings of a run."""

import torch

from backbones import TinyNet
from fcos import FPN, Decoder, Detector, Head, ImageNormalizer, LongestSide, Loss, TargetAssigner
from fcos.data.shapes import CLASSES

SIZE = 96
ENTRY = "FCOS_shapes_tiny"
# Settings of a run of two steps.
SHORT = [
    "schedule.iterations=2",
    "schedule.steps=[]",
    "resize.size=96",
    "solver.batch=4",
    "data.workers=0",
    "run.device=cpu",
    "run.loggers=[]",
]


def make_detector(norm="bn", head_norm="bn", seed=0, classes=CLASSES, **loss):
    torch.manual_seed(seed)
    backbone = TinyNet((8, 16, 32), (1, 1, 1), (2, 3), norm=norm)
    pyramid = FPN(backbone.channels, backbone.strides, 32, extra_from="p5", extra_levels=1)
    return Detector(
        backbone,
        pyramid,
        Head(pyramid.strides, len(classes), 32, tower_depth=1, norm=head_norm),
        normalizer=ImageNormalizer([110.0] * 3, [60.0] * 3, divisor=16),
        resize=LongestSide(SIZE),
        assigner=TargetAssigner([(-1, 16), (16, 32), (32, 1e8)], radius=1.5),
        loss=Loss(**loss),
        decoder=Decoder(),
        classes=classes,
    ).train()


def square_batch(images=4, seed=0):
    """Images of one size, each with more boxes than the one before it."""
    generator = torch.Generator().manual_seed(seed)
    pictures = [
        torch.randint(0, 256, (3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
        for _ in range(images)
    ]
    targets = []
    for number in range(images):
        corner = torch.rand(number + 1, 2, generator=generator) * 50
        side = torch.rand(number + 1, 2, generator=generator) * 40 + 5
        targets.append(
            {"boxes": torch.cat([corner, corner + side], 1), "labels": torch.arange(number + 1) % 3}
        )
    return pictures, targets
