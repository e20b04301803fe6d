"""Measure models: `fcos-zoo bench`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from benchmarks.cases import METRICS, PRECISIONS, STATIC, Dataset, TimingBudget
from fcos.text import TextConsole
from tools.arguments import Device, default_device, words

if TYPE_CHECKING:
    from benchmarks.suite import Suite

LAYOUTS = ("channels_last", "contiguous")
what = partial(typer.Option, rich_help_panel="What to measure")
how = partial(typer.Option, rich_help_panel="How to measure")
output = partial(typer.Option, rich_help_panel="Output")


def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            help="Entries, with shell wildcards, or files that `fcos-zoo train` or "
            "`fcos-zoo export` wrote. "
            "Default: those of the quick suite, or all of them for --metrics params,flops.",
        ),
    ] = None,
    suite: Annotated[
        str | None,
        what(
            metavar="NAME",
            help="Measure a suite: a file of configs/suite, such as quick or published.",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        what(
            "--set", metavar="KEY=VALUE", help="Override a setting of the suite; may be repeated."
        ),
    ] = None,
    metrics: Annotated[
        str | None, what(metavar="WORDS", help=f"Comma-separated: {', '.join(METRICS)}.")
    ] = None,
    baseline: Annotated[
        list[str] | None,
        what(
            "--baseline",
            "--peer",
            metavar="MODULE:FUNCTION",
            help="Also measure another detector: torchvision, or an adapter of your own; may be "
            "repeated.",
        ),
    ] = None,
    dataset: Annotated[
        tuple[Path, Path] | None,
        what(
            metavar="ANNOTATIONS IMAGES",
            help="Annotation file in COCO's format, and the folder of its images.",
            show_default="the 31 embedded images of val2017",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        what(
            min=1, help="Use only the first images, also for AP; --set limit=N limits only speed."
        ),
    ] = None,
    weights: Annotated[
        list[str] | None, what(metavar="NAME=PATH", help="Checkpoint of an entry; may be repeated.")
    ] = None,
    weights_dir: Annotated[
        Path | None, what(help="Folder of checkpoints that are named as published, or NAME.pth.")
    ] = None,
    cached_only: Annotated[bool, what("--cached-only", help="Never download weights.")] = False,
    no_random: Annotated[
        bool,
        what(
            "--no-random",
            help="Do not measure speed and memory with random weights where there are no others.",
        ),
    ] = False,
    precision: Annotated[
        str | None, how(metavar="WORDS", help=f"Comma-separated: {', '.join(PRECISIONS)}.")
    ] = None,
    device: Device = None,
    threads: Annotated[int | None, how(min=1, help="CPU threads.")] = None,
    size: Annotated[
        tuple[int, int] | None,
        how(
            metavar="SHORT LONG",
            help="Resize images to this shortest side, with at most this longest side.",
        ),
    ] = None,
    batches: Annotated[
        str | None, how(metavar="NUMBERS", help="Batch sizes for throughput, such as 1,2,4,8.")
    ] = None,
    compile: Annotated[bool, how("--compile", help="Also measure with torch.compile.")] = False,
    winograd: Annotated[
        bool, how("--winograd", help="Also measure with Winograd's convolutions: fp32 on a CPU.")
    ] = False,
    layout: Annotated[
        str | None,
        how(metavar="WORDS", help=f"Memory format of weights and inputs: {', '.join(LAYOUTS)}."),
    ] = None,
    evaluator: Annotated[
        Literal["pycocotools", "hotcoco"] | None,
        how(show_default="pycocotools", help="Package that computes AP; results are equal."),
    ] = None,
    processes: Annotated[
        int | None,
        how(min=1, show_default="4; quick: 2", help="Number of processes that time each case."),
    ] = None,
    rounds: Annotated[
        int | None,
        how(min=1, help="Time at least this many passes over the images in each process."),
    ] = None,
    runs: Annotated[int | None, how(help="Time at least this many runs in each process.")] = None,
    seconds: Annotated[
        float | None, how(help="Time for at least this long in each process.")
    ] = None,
    timeout: Annotated[
        float | None, how(help="Stop a process that takes longer than this for one case (seconds).")
    ] = None,
    shard: Annotated[
        str | None,
        how(
            metavar="I/N",
            help="Divide the cases among N processes, of which this is number I, from 0; set by "
            "torchrun.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, output(help="Results file, to which rows are appended.")] = Path(
        "outputs/bench/results.jsonl"
    ),
    fresh: Annotated[
        bool, output("--fresh", help="Measure again cases that the results file already has.")
    ] = False,
) -> int:
    """Measure parameters, GFLOPs, latency, throughput, memory and AP, each in its own process.

    Cases that the results file already has for this machine and code are skipped.
    `fcos-zoo bench compare BEFORE AFTER` compares two results files,
    `fcos-zoo bench merge OUT FILES...` merges several, and `fcos-zoo bench push REPOSITORY`
    publishes them. benchmarks/README.md says how each metric is measured.
    """  # fmt: skip
    from benchmarks.worker import take_gpu

    take_gpu()
    static = bool(metrics) and set((metrics or "").split(",")) <= STATIC
    named = bool(names or baseline)
    base = settings_of(suite, set_ or [], named, static)
    timing = base.get("timing", TimingBudget())
    index, shards = _shard(shard)
    changes = {
        "entries": tuple(names or ()) or None,
        "baselines": tuple(baseline or ()) or None,
        "metrics": words(metrics, METRICS, "--metrics"),
        "precisions": words(precision, PRECISIONS, "--precision"),
        "layouts": words(layout, LAYOUTS, "--layout"),
        "compiled": (False, True) if compile else None,
        "winograd": (False, True) if winograd else None,
        "batches": _numbers(batches),
        "device": device,
        "threads": threads,
        "size": size,
        "dataset": Dataset.of(*dataset) if dataset else None,
        "folder": out.parent,
        "limit": limit,
        "ap_limit": limit,
        "evaluator": evaluator,
        "timing": TimingBudget(
            timing.min_rounds if rounds is None else rounds,
            timing.min_runs if runs is None else runs,
            timing.min_seconds if seconds is None else seconds,
            timing.max_seconds,
        ),
        "processes": processes,
        "weights_files": dict(map(_weights, weights or ())) or None,
        "weights_folder": weights_dir,
        "cached_only": cached_only or None,
        "random_weights": False if no_random else None,
        "timeout": timeout,
        "shard": index,
        "shards": shards,
    }
    return measure(suite_of(base, changes, named), out, fresh)


def settings_of(
    name: str | None, overrides: Sequence[str], named: bool, static: bool
) -> dict[str, Any]:
    """Return the settings of a suite, by default of the quick one unless entries are named or only
    static metrics are measured.

    Raises:
        ValueError: there are overrides, but no suite.
    """
    from benchmarks.suite import load

    suite = name or (None if named or static else "quick")
    if overrides and not suite:
        raise ValueError("--set changes a suite: choose one with --suite")
    settings: dict[str, Any] = load(suite, overrides) if suite else {"entries": ("*",)}
    if named and not name:
        settings["entries"] = ()
    return settings


def suite_of(settings: Mapping[str, Any], changes: Mapping[str, Any], named: bool) -> Suite:
    """Make a suite with the settings of the command line (None: not given)."""
    from benchmarks.suite import Suite

    given = {key: value for key, value in changes.items() if value is not None}
    replaced = {*given, "entries", "baselines"} if named else {*given}
    parts = tuple(  # the command line overrides the settings of parts, too
        {key: value for key, value in part.items() if key not in replaced}
        for part in settings.get("parts", ())
    )
    chosen = {**settings, **given, "parts": parts}
    chosen.setdefault("device", default_device())
    suite = Suite(**chosen)
    if suite.device.startswith("cuda") and default_device() != "cuda":
        raise ValueError(f"device {suite.device!r}: torch finds no GPU here; use --device cpu")
    return suite


def measure(suite: Suite, out: Path, fresh: bool) -> int:
    """Measure, write results and a Markdown table, and print it; returns 1 if a case failed.

    Under torchrun the exit code is always 0, since torchrun ends all processes when one fails.
    """
    from benchmarks.runner import closing_lines, run
    from benchmarks.store import Store, newest
    from reports import tables

    console = TextConsole()
    store = Store(out)
    rows = run(suite, store, fresh)
    page = out.with_suffix(".md")
    page.write_text(tables.page(rows if suite.shards == 1 else newest(store.rows())))
    for table in tables.terminal(rows, console.width, str(page)):
        console.print(table)
    for line in closing_lines(rows, suite):
        console.print(line, style="yellow", soft_wrap=True)
    everything = {"latency", "memory", "ap"} <= set(suite.metrics)
    look = " Compare ms and peak MB, and AP where weights are trained." if everything else ""
    console.print(f"Results: {out}, table: {page}.{look}")
    console.print(f"See everything as a page: fcos-zoo report {out} --html", soft_wrap=True)
    broken = [row for row in rows if row["status"] not in ("measured", "missing")]
    return 1 if broken and "WORLD_SIZE" not in os.environ else 0


def _numbers(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    numbers = text.split(",")
    if not all(number.strip().isdecimal() and int(number) > 0 for number in numbers):
        raise typer.BadParameter(
            f"{text!r} is not a list of positive integers like 1,2,4", param_hint="--batches"
        )
    return tuple(map(int, numbers))


def _weights(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} is not NAME=PATH", param_hint="--weights")
    return name, Path(path)


def _shard(text: str | None) -> tuple[int | None, int | None]:
    """Return the shard that the user names, or that of a process started by torchrun."""
    if text is None and "WORLD_SIZE" in os.environ:
        text = f"{os.environ['RANK']}/{os.environ['WORLD_SIZE']}"
    if text is None:
        return None, None
    shard, _, shards = text.partition("/")
    if not (shard.isdecimal() and shards.isdecimal()):
        raise typer.BadParameter(f"{text!r} is not I/N, such as 0/2", param_hint="--shard")
    return int(shard), int(shards)


if __name__ == "__main__":
    from tools.cli import main

    sys.exit(main(["bench", *sys.argv[1:]]))
