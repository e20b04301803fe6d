"""One step of each case on this process's share; rank 0 writes what came out. Run by a test."""

import sys
from pathlib import Path

import torch
from tiny_detector import make_detector, square_batch

from fcos.train import distributed
from fcos.train.metrics import Meter
from fcos.train.optim import Schedule, make_optimizer
from fcos.train.trainer import Trainer

CASES = {
    "norms that exchange statistics": ({"norm": "sync_bn", "head_norm": "sync_bn"}, {}),
    "micro-batches": (
        {"norm": "frozen_bn", "head_norm": "gn", "normalizer": "moving"},
        {"accumulate": 2, "clip_norm": 1.0, "ema": 0.5},
    ),
    "normalisers of groups of images": (
        {
            "norm": "frozen_bn",
            "head_norm": "gn",
            "normalizer": "positives+images",
            "normalizer_group": 3,
        },
        {},
    ),
}


def one_step(detector_options, trainer_options):
    """The losses, parameters and buffers after two steps of 4 images in all processes together."""
    detector = make_detector(**detector_options)
    optimizer = make_optimizer(detector, 0.1)
    trainer = Trainer(
        detector, lambda _: [], optimizer, Schedule(2), Path(), "", epoch=1, **trainer_options
    )
    losses = {}
    for step in range(2):
        images, targets = square_batch(4, seed=step)
        share = 4 // distributed.world()
        own = slice(distributed.rank() * share, (distributed.rank() + 1) * share)
        losses = trainer.step(images[own], targets[own])
    mean = {name: distributed.average(loss) for name, loss in losses.items()}
    return mean, detector.state_dict(), trainer.eval_model.state_dict()


if __name__ == "__main__":
    torch.set_num_threads(1)
    with distributed.process_group("cpu"):
        found = {name: one_step(*options) for name, options in CASES.items()}
        try:
            distributed.of_leader(lambda: int(f"of rank {distributed.rank()}"))
        except ValueError as error:
            found["errors"] = distributed.gather(str(error))
        found["largest rank"] = distributed.maximum(distributed.rank())
        meter = Meter()
        meter.add(0, {}, [{"skipped": 1 + distributed.rank()}])
        found["record"] = meter.record(torch.device("cpu"))
        if distributed.rank() == 0:
            torch.save(found, sys.argv[1])
