r"""Split a suite into jobs with Hydra's --multirun, on a Slurm cluster with its launcher.

    python -m tools.spread --config-name suite/published --multirun \
        +shards=8 '+shard=range(8)' hydra/launcher=submitit_slurm

Each job measures one shard of the suite, and all append to the same results file, `+out=FILE`. The
suites are the files of `configs/suite`, and a job's other settings are those of the suite, such as
`limit=10`. Without a launcher the jobs run one after the other.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from benchmarks.runner import run
from benchmarks.store import Store
from benchmarks.suite import Suite, settings
from tools.arguments import default_device
from zoo.registry import CONFIGS


@hydra.main(version_base=None, config_path=str(CONFIGS), config_name="suite/published")
def main(config: DictConfig) -> None:
    """Measure one shard; Hydra calls this once per job."""
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    out = Path(str(plain.pop("out", "outputs/bench/results.jsonl")))
    plain.setdefault("device", default_device())
    job = HydraConfig.get()
    words = ["python", "-m", "tools.spread", "--config-name", str(job.job.config_name)]
    command = shlex.join([*words, *job.overrides.task])
    run(Suite(**{"folder": out.parent, **settings(plain)}), Store(out), command=command)


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv):  # Hydra's help is a list of all configs
        print((__doc__ or "").strip())
        sys.exit()
    sys.exit(main())
