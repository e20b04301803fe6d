"""A ResNet entry learns real images by heart: the first steps of `reports/eight_images`."""

from pathlib import Path

from fcos.train.log import read
from tools.train import main

EIGHT = Path(__file__).parents[2] / "benchmarks" / "data" / "coco_val_ccby" / "eight_images.json"


def test_a_resnet_entry_begins_to_learn_eight_images_by_heart(tmp_path):
    arguments = [
        "FCOS_R_50_1x",
        f"data.train={EIGHT}",
        f"run.folder={tmp_path}",
        "run.device=cpu",
        "run.backbone=null",
        "run.log_every=1",
        "backbone.norm=bn",
        "backbone.frozen_stages=0",
        "solver.batch=8",
        "solver.base_lr=0.01",
        "solver.clip_norm=10",
        "solver.warmup.iterations=3",
        "solver.precision=bf16",
        "solver.channels_last=true",
        "schedule.iterations=14",
        "schedule.steps=[]",
        "augmentation.shortest=[64]",
        "augmentation.longest=107",
        "data.flip=0",
        "data.workers=0",
    ]
    assert main(arguments) == 0
    losses = [record["loss"] for record in read(tmp_path / "metrics.jsonl")]
    assert len(losses) == 14
    assert losses[-1] < 0.8 * losses[0]
