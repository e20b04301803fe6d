"""Measure parameters, GFLOPs, latency, throughput, memory and AP, a cell in a process of its own.

fcos-zoo bench NAMES...             measure entries
fcos-zoo bench --suite published    measure a whole suite, see configs/suite
fcos-zoo bench compare A B          hold two results files against each other
fcos-zoo bench merge OUT FILES...   put results files together
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import environment
from benchmarks.cell import METRICS, PRECISIONS, STATIC, Dataset, Pace
from benchmarks.run import NOT_STARTED, complete, run
from benchmarks.store import Store, newest
from benchmarks.suite import Suite, load, suites
from fcos.evaluate import BACKENDS
from reports import tables
from tools import compare, merge
from tools.arguments import default_device, positive

SUBCOMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "compare": compare.main,
    "merge": merge.main,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write results and a markdown table, print the table; 1 if a cell failed.

    Under torchrun always 0, as it ends all processes with the first that fails: the rows tell.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments and arguments[0] in SUBCOMMANDS:
        return SUBCOMMANDS[arguments[0]](arguments[1:])
    options = _parser().parse_args(arguments)
    take_gpu()
    suite = suite_of(options)
    console = Console()
    store = Store(options.out)
    rows = run(suite, store, options.fresh)
    page = options.out.with_suffix(".md")
    page.write_text(tables.page(rows if suite.shards == 1 else newest(store.rows())))
    for table in tables.terminal(rows, console.width, str(page)):
        console.print(table)
    if late := sum(row["reason"].startswith(NOT_STARTED) for row in rows):
        console.print(f"{late} cells not started: the suite's time was over", style="yellow")
    if short := sum(not complete(row, suite) for row in rows):
        fewer = f"{short} times of fewer than {suite.processes} processes"
        console.print(f"{fewer}: the suite's time was over", style="yellow")
    console.print(f"results in {options.out}, table in {page}", highlight=False, soft_wrap=True)
    broken = [row for row in rows if row["status"] not in ("measured", "missing")]
    return 1 if broken and "WORLD_SIZE" not in os.environ else 0


def suite_of(options: argparse.Namespace) -> Suite:
    """The suite that a config names, with what the command line says instead."""
    named = bool(options.names or options.peer)
    static = bool(options.metrics) and set(options.metrics) <= STATIC
    suite = options.suite or (None if named or static else "quick")
    if options.set and not suite:
        raise ValueError("--set changes a suite: name it by --suite")
    chosen: dict[str, Any] = load(suite, options.set) if suite else {"entries": ("*",)}
    if named and not options.suite:
        chosen["entries"] = ()
    pace = chosen.get("pace", Pace())
    said = {
        "entries": tuple(options.names) or None,
        "peers": tuple(options.peer) or None,
        "metrics": options.metrics,
        "precisions": options.precision,
        "layouts": options.layout,
        "compiled": (False, True) if options.compile else None,
        "batches": options.batches,
        "device": options.device,
        "threads": options.threads,
        "size": tuple(options.size) if options.size else None,
        "dataset": Dataset.of(*options.dataset) if options.dataset else None,
        "folder": options.out.parent,
        "limit": options.limit,
        "ap_limit": options.limit,
        "evaluator": options.evaluator,
        "pace": Pace(
            pace.rounds if options.rounds is None else options.rounds,
            pace.runs if options.runs is None else options.runs,
            pace.seconds if options.seconds is None else options.seconds,
            pace.limit,
        ),
        "processes": options.processes,
        "weights_files": dict(options.weights) or None,
        "weights_folder": options.weights_dir,
        "cached_only": options.cached_only or None,
        "random_weights": False if options.no_random else None,
        "timeout": options.timeout,
        "shard": options.shard and options.shard[0],
        "shards": options.shard and options.shard[1],
    }
    chosen |= {key: value for key, value in said.items() if value is not None}
    chosen.setdefault("device", default_device())
    return Suite(**chosen)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fcos-zoo bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Cells that the results file holds already, measured on this machine with this\n"
        "code, are not repeated. benchmarks/README.md says how everything is measured.",
    )
    what = parser.add_argument_group("what is measured").add_argument
    what(
        "names",
        nargs="*",
        metavar="NAME",
        help="entries, shell wildcards; default: all, or, timed, the quick suite",
    )
    what("--suite", help=f"one of {', '.join(suites())}")
    what(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change the suite's config"
    )
    what("--metrics", type=_words(METRICS), help=f"out of {','.join(METRICS)}")
    what("--peer", action="append", default=[], metavar="MODULE:FUNCTION",
         help="another detector beside, or: torchvision")  # fmt: skip
    what("--dataset", type=Path, nargs=2, metavar=("ANNOTATIONS", "IMAGES"),
         help="COCO-format; default: the 31 embedded images of val2017")  # fmt: skip
    what(
        "--limit",
        type=positive,
        help="the first images alone, for AP too (--set limit=N: not for AP)",
    )
    what("--weights", type=_weights, action="append", default=[], metavar="NAME=PATH",
         help="a checkpoint for an entry; may be repeated")  # fmt: skip
    what("--weights-dir", type=Path, help="folder of files called as published, or NAME.pth")
    what("--cached-only", action="store_true", help="download no weights")
    what("--no-random", action="store_true",
         help="where weights are missing measure no speed with random ones")  # fmt: skip
    how = parser.add_argument_group("how").add_argument
    how("--precision", type=_words(PRECISIONS), help=f"out of {','.join(PRECISIONS)}")
    how("--device", help="cpu or cuda; default: cuda where there is one")
    how("--threads", type=positive, help="of the CPU")
    how("--size", type=int, nargs=2, metavar=("SHORT", "LONG"), help="sides of the images at most")
    how("--batches", type=_numbers, help="of throughput, e.g. 1,2,4,8")
    how("--compile", action="store_true", help="measure torch.compile too")
    how("--layout", type=_words(("channels_last", "contiguous")), help="of weights and inputs")
    how("--evaluator", choices=BACKENDS, help="of AP; equal figures (default: pycocotools)")
    how("--processes", type=positive, help="that each time is measured in (default: 4)")
    how("--rounds", type=positive, help="timed passes over the images in each of them, at least")
    how("--runs", type=int, help="timed runs in each, at least")
    how("--seconds", type=float, help="timed seconds in each, at least")
    how("--timeout", type=float, help="seconds a process may take for a cell")
    how("--shard", type=_shard, default=_rank(), metavar="I/N",
        help="measure every N-th process from I on; torchrun sets it")  # fmt: skip
    where = parser.add_argument_group("where to").add_argument
    where("--out", type=Path, default=Path("outputs/bench/results.jsonl"), help="%(default)s")
    where("--fresh", action="store_true", help="measure again what the results file holds")
    return parser


def _words(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def words(text: str) -> tuple[str, ...]:
        chosen = tuple(filter(None, text.split(",")))
        for word in chosen:
            if word not in known:
                raise argparse.ArgumentTypeError(f"no {word!r}; there are {', '.join(known)}")
        return chosen

    return words


def _numbers(text: str) -> tuple[int, ...]:
    words = text.split(",")
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise argparse.ArgumentTypeError(f"{text!r} is not numbers from 1, such as 1,2,4")
    return tuple(map(int, words))


def _weights(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH")
    return name, Path(path)


def _shard(text: str) -> tuple[int, int]:
    shard, _, shards = text.partition("/")
    return int(shard), int(shards)


def _rank() -> tuple[int, int] | None:
    """The shard of a process that torchrun started."""
    if "WORLD_SIZE" not in os.environ:
        return None
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def take_gpu() -> None:
    """Of the GPUs that a process started by torchrun may see, leave it the one of its number.

    Raises:
        ValueError: there are GPUs, but fewer than processes.
    """
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # nvidia-smi's numbers
    if "LOCAL_RANK" in os.environ and (gpus := environment.visible_gpus()):
        local = int(os.environ["LOCAL_RANK"])
        if local >= len(gpus):
            raise ValueError(
                f"process {local} of this machine has no GPU, there are {','.join(gpus)}: "
                f"take --nproc-per-node {len(gpus)}"
            )
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[local]


if __name__ == "__main__":
    sys.exit(main())
