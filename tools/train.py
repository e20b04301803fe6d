"""Train a model by its published recipe, on its dataset or yours.

One process: `fcos-zoo train MODEL`; eight GPUs: `torchrun --nproc-per-node 8 -m tools.train
entry=MODEL`, or `torchrun --nproc-per-node 8 --no-python fcos-zoo train MODEL`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import zoo
from fcos.train import distributed
from zoo.config import compose_entry
from zoo.training import train


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the model's configuration with overrides, and train it."""
    parser = argparse.ArgumentParser(
        prog="fcos-zoo train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="`fcos-zoo info MODEL` shows every setting that can be overridden. Your own "
        "dataset:\n"
        "  fcos-zoo train FCOS_R_50_1x data.train=train.json data.test=val.json \\\n"
        "      init.checkpoint=FCOS_R_50_1x schedule.iterations=5000 schedule.steps=[4000]",
    )
    parser.add_argument("--resume", action="store_true", help="continue the run, if there is one")
    parser.add_argument("override", nargs="*", help="MODEL or entry=MODEL, and any KEY=VALUE")
    options = parser.parse_intermixed_args(arguments)
    names = [o.removeprefix("entry=") for o in options.override if _is_name(o)]
    if len(names) != 1:
        parser.error(f"name one model, not {len(names)}: `fcos-zoo list` shows them")
    overrides = [o for o in options.override if not _is_name(o)]
    card = zoo.card(names[0])
    config = compose_entry(card.name, overrides)
    with distributed.process_group(config["run"]["device"]) as device:
        # An elastic restart has the arguments of the first start, and only the machine where a
        # process died counts it.
        restarts = distributed.maximum(int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)))
        received = train(card, config, device, options.resume or restarts > 0)
    return 128 + received if received else 0


def _is_name(argument: str) -> bool:
    """Whether an argument names a model: `NAME` or `entry=NAME`, but not `~KEY`."""
    return ("=" not in argument and not argument.startswith("~")) or argument.startswith("entry=")


if __name__ == "__main__":
    sys.exit(main())
