"""Measure parameters, GFLOPs, latency, throughput, memory and AP, each in its own process.

fcos-zoo bench NAMES...             measure entries
fcos-zoo bench --suite published    measure a suite, see configs/suite
fcos-zoo bench compare A B          compare two results files
fcos-zoo bench merge OUT FILES...   merge results files
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
from benchmarks.cases import METRICS, PRECISIONS, STATIC, Dataset, TimingBudget
from benchmarks.runner import NOT_STARTED, is_complete, run
from benchmarks.store import Row, Store, newest
from benchmarks.suite import Suite, load, suites
from fcos.coco_eval import BACKENDS
from reports import tables
from tools import compare, merge
from tools.arguments import default_device, positive

SUBCOMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "compare": compare.main,
    "merge": merge.main,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write results and a Markdown table, and print the table; 1 if a case failed.

    Under torchrun the exit code is always 0, since torchrun ends all processes when one fails.
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
    for line in closing_lines(rows, suite):
        console.print(line, style="yellow", highlight=False, soft_wrap=True)
    console.print(
        f"Results: {options.out}, table: {page}. See them as a page: "
        f"fcos-zoo report {options.out} --html",
        highlight=False,
        soft_wrap=True,
    )
    broken = [row for row in rows if row["status"] not in ("measured", "missing")]
    return 1 if broken and "WORLD_SIZE" not in os.environ else 0


def closing_lines(rows: Sequence[Row], suite: Suite) -> list[str]:
    """What the reader of the table must know: cases that failed, or were cut short."""
    lines = []
    failed = [row for row in rows if row["status"] not in ("measured", "missing")]
    for row in failed[:5]:
        cell = row["cell"]
        lines.append(f"{row['status']}: {cell['entry']}, {cell['metric']}: {row['reason']}")
    if len(failed) > 5:
        lines.append(f"and {len(failed) - 5} more cases failed")
    if late := sum(row["reason"].startswith(NOT_STARTED) for row in rows):
        lines.append(f"{late} cases not started: the time for this suite was over")
    if short := sum(not is_complete(row, suite) for row in rows):
        lines.append(
            f"{short} times are from fewer than {suite.processes} processes, so their noise may be "
            "larger than stated: run the command again with --set budget=null for all of them"
        )
    return lines


def suite_of(options: argparse.Namespace) -> Suite:
    """The suite that a config names, changed by the options of the command line."""
    named = bool(options.names or options.baseline)
    static = bool(options.metrics) and set(options.metrics) <= STATIC
    suite = options.suite or (None if named or static else "quick")
    if options.set and not suite:
        raise ValueError("--set changes a suite: choose one with --suite")
    chosen: dict[str, Any] = load(suite, options.set) if suite else {"entries": ("*",)}
    if named and not options.suite:
        chosen["entries"] = ()
    timing = chosen.get("timing", TimingBudget())
    changes = {
        "entries": tuple(options.names) or None,
        "baselines": tuple(options.baseline) or None,
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
        "timing": TimingBudget(
            timing.min_rounds if options.rounds is None else options.rounds,
            timing.min_runs if options.runs is None else options.runs,
            timing.min_seconds if options.seconds is None else options.seconds,
            timing.max_seconds,
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
    changes = {key: value for key, value in changes.items() if value is not None}
    chosen |= changes
    if named:
        changes |= {"entries": (), "baselines": ()}
    chosen["parts"] = tuple(  # the command line overrides them, too
        {key: value for key, value in part.items() if key not in changes}
        for part in chosen.get("parts", ())
    )
    chosen.setdefault("device", default_device())
    return Suite(**chosen)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fcos-zoo bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Cases that the results file already has for this machine and code are skipped.\n"
        "benchmarks/README.md describes how everything is measured.",
    )
    what = parser.add_argument_group("what to measure").add_argument
    what(
        "names",
        nargs="*",
        metavar="NAME",
        help="entries, with shell wildcards (default: the quick suite; all for static metrics)",
    )
    what("--suite", help=f"one of {', '.join(suites())}")
    what(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a setting of the suite",
    )
    what("--metrics", type=_words(METRICS), help=f"comma-separated: {','.join(METRICS)}")
    what("--baseline", "--peer", action="append", default=[], metavar="MODULE:FUNCTION",
         help="also measure another detector: torchvision, or an adapter")  # fmt: skip
    what("--dataset", type=Path, nargs=2, metavar=("ANNOTATIONS", "IMAGES"),
         help="in COCO format (default: the 31 embedded images of val2017)")  # fmt: skip
    what(
        "--limit",
        type=positive,
        help="use only the first N images, also for AP (--set limit=N: only for speed and memory)",
    )
    what("--weights", type=_weights, action="append", default=[], metavar="NAME=PATH",
         help="checkpoint of an entry; may be repeated")  # fmt: skip
    what(
        "--weights-dir",
        type=Path,
        help="folder of checkpoints with their published names, or NAME.pth",
    )
    what("--cached-only", action="store_true", help="never download weights")
    what("--no-random", action="store_true",
         help="do not measure speed and memory with random weights")  # fmt: skip
    how = parser.add_argument_group("how to measure").add_argument
    how("--precision", type=_words(PRECISIONS), help=f"comma-separated: {','.join(PRECISIONS)}")
    how("--device", help="cpu, cuda or cuda:N (default: cuda if available)")
    how("--threads", type=positive, help="CPU threads")
    how(
        "--size",
        type=int,
        nargs=2,
        metavar=("SHORT", "LONG"),
        help="largest shortest and longest side of the images",
    )
    how("--batches", type=_numbers, help="batch sizes of throughput, such as 1,2,4,8")
    how("--compile", action="store_true", help="also measure with torch.compile")
    how(
        "--layout",
        type=_words(("channels_last", "contiguous")),
        help="memory format of weights and inputs",
    )
    how(
        "--evaluator",
        choices=BACKENDS,
        help="computes AP, with equal results (default: pycocotools)",
    )
    how("--processes", type=positive, help="number of processes that time each case (default: 4)")
    how("--rounds", type=positive, help="least number of timed passes over the images per process")
    how("--runs", type=int, help="least number of timed runs per process")
    how("--seconds", type=float, help="least number of timed seconds per process")
    how("--timeout", type=float, help="seconds that a process may take for a case")
    how("--shard", type=_shard, default=_rank(), metavar="I/N",
        help="measure only every N-th process, from I on; set by torchrun")  # fmt: skip
    where = parser.add_argument_group("output").add_argument
    where(
        "--out",
        type=Path,
        default=Path("outputs/bench/results.jsonl"),
        help="results file (%(default)s)",
    )
    where("--fresh", action="store_true", help="measure again what the results file already has")
    return parser


def _words(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def words(text: str) -> tuple[str, ...]:
        chosen = tuple(filter(None, text.split(",")))
        for word in chosen:
            if word not in known:
                raise argparse.ArgumentTypeError(
                    f"unknown {word!r}; choose from {', '.join(known)}"
                )
        return chosen

    return words


def _numbers(text: str) -> tuple[int, ...]:
    words = text.split(",")
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of positive integers like 1,2,4")
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
    """The shard of a process started by torchrun."""
    if "WORLD_SIZE" not in os.environ:
        return None
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def take_gpu() -> None:
    """Give each process that torchrun starts one of the visible GPUs.

    Raises:
        ValueError: there are GPUs, but fewer than processes.
    """
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # as NVML numbers them
    if "LOCAL_RANK" in os.environ and (gpus := environment.visible_gpus()):
        local = int(os.environ["LOCAL_RANK"])
        if local >= len(gpus):
            raise ValueError(
                f"no GPU for process {local} of this machine, which has {','.join(gpus)}: "
                f"use --nproc-per-node {len(gpus)}"
            )
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[local]


if __name__ == "__main__":
    sys.exit(main())
