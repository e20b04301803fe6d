"""Other places that metrics go to, through their own clients."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Record = dict[str, Any]
Write = Callable[[Record], None]


def _scalars(record: Record) -> dict[str, float]:
    return {k: v for k, v in record.items() if isinstance(v, int | float) and k != "iteration"}


def _tensorboard(folder: Path, iteration: int, config: Mapping[str, Any]) -> Write:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=iteration)

    def write(record: Record) -> None:
        for key, value in _scalars(record).items():
            writer.add_scalar(key, value, record["iteration"])
        writer.flush()

    return write


def _wandb(folder: Path, iteration: int, config: Mapping[str, Any]) -> Write:
    wandb = importlib.import_module("wandb")
    place = hashlib.sha256(bytes(folder.resolve())).hexdigest()[:12]  # runs of one name elsewhere
    run = wandb.init(
        project="fcos-zoo", name=folder.name, id=f"{folder.name}-{place}", dir=folder,
        config=dict(config), resume="allow",
    )  # fmt: skip
    return lambda record: run.log(_scalars(record), step=record["iteration"])


def _mlflow(folder: Path, iteration: int, config: Mapping[str, Any]) -> Write:
    mlflow = importlib.import_module("mlflow")
    mlflow.set_experiment("fcos-zoo")
    mlflow.start_run(run_name=folder.name)
    mlflow.log_dict(dict(config), "config.json")
    return lambda record: mlflow.log_metrics(_scalars(record), step=record["iteration"])


LOGGERS: dict[str, Callable[[Path, int, Mapping[str, Any]], Write]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
}
