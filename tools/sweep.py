r"""Train many combinations of settings by Hydra's --multirun, on a cluster with a launcher.

    python -m tools.sweep --multirun entry=FCOS_R_50_1x,FCOS_MS_R_50_2x solver.base_lr=0.01,0.02 \
        hydra.sweep.dir=runs/rates hydra/launcher=slurm

Commas separate the values of a setting, and every combination of values is one job. The settings
are those of `fcos-zoo train`; `fcos-zoo info NAME` lists them. Each job has its own folder under
`hydra.sweep.dir`, where it resumes if it is started again.

Without a launcher the jobs run one after the other. `configs/hydra/launcher/slurm.yaml` describes
the jobs of a cluster; they need `pip install 'fcos-zoo[slurm]'`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# submitit reads it when it is imported; the trainer saves at this signal.
os.environ.setdefault("SUBMITIT_PREEMPT_SIGNAL", "USR1")

import hydra
import torch
import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.hydra_config import HydraConfig
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf

import zoo
from fcos.train import distributed
from fcos.train.metrics import read
from fcos.train.optim import resolved
from zoo.config import quoted, rename_settings
from zoo.registry import CONFIGS, folders
from zoo.training import train


class RegisteredFolder(FileConfigSource):
    """A registered folder, whose `NAME.yaml` is `entry/NAME`, like the zoo's entries."""

    @staticmethod
    def scheme() -> str:
        return "registered"

    def is_config(self, config_path: str) -> bool:
        return super().is_config(config_path.removeprefix("entry/"))

    def load_config(self, config_path: str) -> ConfigResult:
        result = super().load_config(config_path.removeprefix("entry/"))
        if config_path.startswith("entry/"):
            result.header["package"] = "_global_"
        return result


SourcesRegistry.instance().register(RegisteredFolder)


def hydra_arguments(arguments: Sequence[str]) -> list[str]:
    """Convert the command's arguments for Hydra, and add the registered folders."""
    paths = ",".join(f"'registered://{folder}'" for folder in folders())
    search = [f"hydra.searchpath=[{paths}]"] if paths else []
    return [*quoted(arguments, sweep=True), *search]


def check_entries(arguments: Sequence[str]) -> None:
    """UnknownEntryError for an entry to train that there is not; Hydra's error has ten lines."""
    for word in arguments:
        key, _, value = word.partition("=")
        if key == "entry" and "(" not in value:  # not a function of Hydra's
            for name in value.split(","):
                zoo.card(name)


@hydra.main(version_base=None, config_path=str(CONFIGS), config_name="sweep")
def main(config: DictConfig) -> float | None:
    """Train one combination; Hydra calls this once per job, on a cluster in each of its processes.

    Returns:
        The highest measured AP, for sweepers that optimise it.
    """
    job = HydraConfig.get()
    card = zoo.card(job.runtime.choices["entry"])
    folder = Path(job.runtime.output_dir)
    composed = OmegaConf.to_container(config, resolve=True)
    assert isinstance(composed, dict)
    plain = rename_settings({str(key): value for key, value in composed.items()})
    if plain["run"]["folder"]:
        raise ValueError("each job needs its own folder: set hydra.sweep.dir, not run.folder")
    plain["run"]["folder"] = str(folder)
    resume = _has_checkpoint(folder, resolved(plain, card.config)[0])
    _set_rank()
    threads = torch.get_num_threads()
    with distributed.process_group(plain["run"]["device"]) as device:
        received = train(card, plain, device, resume)
    torch.set_num_threads(threads)  # training used fewer; the next job starts with all
    if received:
        signal.raise_signal(received)  # for the launcher, which then requeues the job or ends
    records = read(folder / "metrics.jsonl")
    return max((r["AP"] for r in records if r.get("AP") is not None), default=None)


def _has_checkpoint(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether the job has a checkpoint to resume from.

    Raises:
        ValueError: the checkpoint is of a run with other settings.
    """
    if not any((folder / "checkpoints").glob("*.pth")):
        return False
    if rename_settings(yaml.safe_load((folder / "config.yaml").read_text())) != config:
        raise ValueError(
            f"{folder} holds a run with other settings: choose another hydra.sweep.dir"
        )
    return True


def _set_rank() -> None:
    """Set the rank of this process in a cluster's job, as torchrun would."""
    if "SUBMITIT_EXECUTOR" not in os.environ:
        return
    import submitit

    if submitit.JobEnvironment().num_tasks > 1:
        process = submitit.helpers.TorchDistributedEnvironment()
        process.export(set_cuda_visible_devices=False, overwrite=True)


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv):  # Hydra's help is a list of all configs
        print((__doc__ or "").strip())
        sys.exit()
    try:
        check_entries(sys.argv[1:])
        sys.argv[1:] = hydra_arguments(sys.argv[1:])
    except (LookupError, ValueError, OSError) as error:
        sys.exit(f"tools.sweep: {error}")
    sys.exit(main())
