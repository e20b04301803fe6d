"""Time alternatives in one process, in alternating rounds.

Other load on the machine then affects all of them equally. A ratio is the median over the rounds of
the ratio within a round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
from rich.console import Console
from rich.progress import track

from benchmarks import environment

Measure = Callable[[], object]  # runs once per round; may return other figures


def arguments(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with the options of all studies, described by a docstring's first line."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=rounds, help="timed rounds (%(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of torch (%(default)s)")
    return parser


def side_by_side(contenders: Mapping[str, Measure], rounds: int, warmup: int = 2) -> pd.DataFrame:
    """Run all contenders once per round.

    Args:
        contenders: functions by name; each may return a mapping of figures, such as seconds by
            stage.
        rounds: the number of timed rounds.
        warmup: the number of rounds before them.

    Returns:
        A row for each round and contender with columns `round`, `contender`, `seconds` (measured
        here unless the contender returns it), and the contender's figures.
    """
    rows: list[dict[str, Any]] = []
    console = Console(stderr=True)
    steps = range(-warmup, rounds)
    for step in track(steps, "rounds", console=console, disable=not console.is_terminal):
        for name, run in contenders.items():
            start = time.perf_counter()
            figures = run()
            row = {"round": step, "contender": name, "seconds": time.perf_counter() - start}
            if step >= 0:
                rows.append({**row, **(figures if isinstance(figures, Mapping) else {})})
    return pd.DataFrame(rows)


def medians(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the median of every figure by contender, in the order of the contenders."""
    return frame.drop(columns="round").groupby("contender", sort=False).median()


def speedup(frame: pd.DataFrame, name: str, over: str) -> str:
    """Return how many times as fast a contender is as another: median (least to most)."""
    seconds = frame.pivot(index="round", columns="contender", values="seconds")
    ratios = (seconds[over] / seconds[name]).tolist()
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def conditions(device: str, rounds: int) -> str:
    """Return the machine, the software and the load, in one line below a table."""
    facts = environment.describe(device)
    load = environment.state(device).get("load")
    return (
        f"{facts.get('gpu') or facts['cpu']}, {facts['threads']} threads, torch {facts['torch']}, "
        f"torchvision {facts['torchvision']}, {rounds} rounds, load {load}"
    )


def markdown(rows: Sequence[Mapping[str, object]], title: str, below: str = "") -> str:
    """Return a Markdown table of rows by heading, between a title and a last line."""
    headings = list(rows[0])
    rule = ["---", *["---:"] * (len(headings) - 1)]
    cells = [headings, rule, *(map(str, row.values()) for row in rows)]
    table = "\n".join(f"| {' | '.join(texts)} |" for texts in cells)
    return "\n\n".join(filter(None, [title, table, below]))
