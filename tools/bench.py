"""Measure parameters, GFLOPs, latency, memory and AP, each cell in a process of its own."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.cell import METRICS, PRECISIONS, Dataset, Pace
from benchmarks.store import Store
from benchmarks.suite import Suite, run
from reports import tables

# One entry of each kind; more as the zoo grows.
QUICK = ("FCOS_R_50_1x", "FCOS_imprv_R_50_FPN_1x", "FCOS_R_50_5l_2x", "FCOS_RT_MS_R_50_4x")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write results and a markdown table, print the table; 1 if a cell failed."""
    options = _parser().parse_args(arguments)
    suite = _suite(options)
    console = Console(width=None if sys.stdout.isatty() else 150)
    store = Store(options.out)
    rows = run(suite, store, options.fresh)
    page = options.out.with_suffix(".md")
    page.write_text(tables.page(rows))
    for table in tables.terminal(rows):
        console.print(table)
    console.print(f"results in {options.out}, table in {page}", highlight=False, soft_wrap=True)
    broken = [row for row in rows if row["status"] not in ("measured", "missing")]
    return 1 if broken else 0


def _suite(options: argparse.Namespace) -> Suite:
    quick = options.suite == "quick"
    pace = Pace(options.rounds, options.runs, options.seconds)
    if quick:
        pace = Pace(3, 0, 0.0, 6.0)
    return Suite(
        entries=options.names or QUICK,
        metrics=options.metrics,
        precisions=options.precision,
        device=options.device or _default_device(),
        threads=options.threads,
        size=tuple(options.size) if options.size else (256, 427) if quick else None,
        dataset=Dataset.of(*options.dataset) if options.dataset else None,
        limit=options.limit or (4 if quick else None),
        ap_limit=options.limit,
        pace=pace,
        weights_files=dict(options.weights),
        weights_folder=options.weights_dir,
        cached_only=quick or options.cached_only,
        random_weights=not options.no_random,
        timeout=options.timeout,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fcos-zoo bench",
        description=__doc__,
        epilog="Cells that the results file holds already, measured on this machine with this "
        "code, are not repeated. benchmarks/README.md says how everything is measured.",
    )
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="entries; shell wildcards; default: one a kind")
    add("--suite", choices=["quick"], help="quick: one entry of each kind, small images")
    add("--metrics", type=_metrics, default=("params", "flops", "latency", "memory", "ap"),
        help=f"out of {','.join(METRICS)}; default: params,flops,latency,memory,ap")  # fmt: skip
    add("--precision", type=_precisions, default=("fp32",), help=f"out of {','.join(PRECISIONS)}")
    add("--device", help="cpu or cuda; default: cuda where there is one")
    add("--threads", type=int, help="of the CPU")
    add("--size", type=int, nargs=2, metavar=("SHORT", "LONG"),
        help="sides of the test images instead of the published ones")  # fmt: skip
    add("--dataset", type=Path, nargs=2, metavar=("ANNOTATIONS", "IMAGES"),
        help="COCO-format; default: the 31 embedded images of val2017")  # fmt: skip
    add("--limit", type=int, help="use the first images alone")
    add("--weights", type=_weights, action="append", default=[], metavar="NAME=PATH",
        help="a checkpoint for an entry; may be repeated")  # fmt: skip
    add("--weights-dir", type=Path, help="folder of files called as published, or NAME.pth")
    add("--cached-only", action="store_true", help="download no weights")
    add("--no-random", action="store_true",
        help="measure no speed where weights are missing, instead of with random ones")  # fmt: skip
    add("--rounds", type=int, default=3, help="timed passes over the images (%(default)s)")
    add("--runs", type=int, default=50, help="timed runs at least (%(default)s)")
    add("--seconds", type=float, default=20.0, help="timed seconds at least (%(default)s)")
    add("--timeout", type=float, default=900.0, help="seconds a cell may take (%(default)s)")
    add("--out", type=Path, default=Path("outputs/bench/results.jsonl"), help="%(default)s")
    add("--fresh", action="store_true", help="measure again what the results file holds")
    return parser


def _choices(text: str, known: Sequence[str], what: str) -> tuple[str, ...]:
    chosen = tuple(word.strip() for word in text.split(",") if word.strip())
    for word in chosen:
        if word not in known:
            raise argparse.ArgumentTypeError(f"no {what} {word!r}; there are {', '.join(known)}")
    return chosen


def _metrics(text: str) -> tuple[str, ...]:
    return _choices(text, METRICS, "metric")


def _precisions(text: str) -> tuple[str, ...]:
    return _choices(text, PRECISIONS, "precision")


def _weights(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH")
    return name, Path(path)


def _default_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


if __name__ == "__main__":
    sys.exit(main())
