"""A ResNet entry overfits eight photographs: the first steps of `reports/eight_images`.

In fp32, because bf16 is many times as slow on a CPU without instructions for it.
"""

from pathlib import Path

from fcos.train.metrics import read
from tools import cli

EIGHT = Path(__file__).parents[2] / "benchmarks" / "data" / "coco_val_ccby" / "eight_images.json"


def test_a_resnet_entry_begins_to_overfit_eight_images(tmp_path):
    arguments = [
        "FCOS_R_50_1x",
        f"data.train={EIGHT}",
        f"run.folder={tmp_path}",
        "run.device=cpu",
        "init.backbone=null",
        "run.log_every=1",
        "backbone.norm=bn",
        "backbone.frozen_stages=0",
        "solver.batch=8",
        "solver.base_lr=0.01",
        "solver.clip_norm=10",
        "solver.warmup.iterations=3",
        "schedule.iterations=8",
        "schedule.steps=[]",
        "augmentation.shortest=[64]",
        "augmentation.longest=107",
        "data.flip=0",
        "data.workers=0",
    ]
    assert cli.run(["train", *arguments]) == 0
    losses = [record["loss"] for record in read(tmp_path / "metrics.jsonl")]
    assert len(losses) == 8
    assert losses[-1] < 0.85 * losses[0]
