"""Train a model: `fcos-zoo train`, or `python -m tools.train` under torchrun."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from tools.arguments import check_device


def train(
    override: Annotated[
        list[str],
        typer.Argument(metavar="NAME|KEY=VALUE", help="An entry, and settings to override."),
    ],
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run from its newest checkpoint, if any.")
    ] = False,
) -> int:
    """Train an entry by its published recipe, on its dataset or yours.

    `fcos-zoo info NAME` shows every setting that can be overridden. On your own dataset:

        fcos-zoo train FCOS_R_50_1x data=PATH init.checkpoint=FCOS_R_50_1x epochs=20

    PATH is a dataset in any format that `fcos-zoo data check` takes, whose folders or files are
    named train, val or valid, and test. For other names, give two paths: `data.train=PATH
    data.test=PATH`. Without a test set, `data.split=0.1` holds out a tenth of the images.

    `freeze=backbone` trains only the pyramid and the head.

    On eight GPUs: `torchrun --nproc-per-node 8 -m tools.train NAME`.
    """
    import zoo
    from fcos.train import distributed
    from zoo import training
    from zoo.checkpoint import is_path
    from zoo.config import compose_entry

    names = [word.removeprefix("entry=") for word in override if _is_name(word)]
    if len(names) != 1:
        raise typer.BadParameter(
            f"name one entry, not {len(names)}: `fcos-zoo list` shows them; settings are KEY=VALUE"
        )
    if is_path(names[0]):
        raise typer.BadParameter(
            f"{names[0]} is a file: name an entry, and init.checkpoint={names[0]} to start from it"
        )
    card = zoo.card(names[0])
    config = compose_entry(card.name, [word for word in override if not _is_name(word)])
    with distributed.process_group(check_device(config["run"]["device"])) as device:
        # An elastic restart has the arguments of the first start, and is counted only on the
        # machine where a process died.
        restarts = distributed.maximum(int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)))
        received = training.train(card, config, device, resume or restarts > 0)
    return 128 + received if received else 0


def _is_name(argument: str) -> bool:
    """Whether an argument names an entry: `NAME` or `entry=NAME`, but not `~KEY`."""
    return ("=" not in argument and not argument.startswith("~")) or argument.startswith("entry=")


if __name__ == "__main__":
    from tools.cli import main

    sys.exit(main(["train", *sys.argv[1:]]))
