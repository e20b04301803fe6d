"""What a run shows: a progress bar on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from fcos.coco_eval import percent
from fcos.train.metrics import Record


class Progress:
    """A progress bar on a terminal, a line for each record elsewhere.

    Args:
        total: iterations of the schedule.
        done: iterations that a resumed run has taken.
        shown: whether this process prints anything.
    """

    def __init__(self, total: int, done: int, shown: bool = True) -> None:
        self.console = Console(
            stderr=True, quiet=not shown, soft_wrap=True, markup=False, emoji=False, highlight=False
        )
        self.total = total
        self.first, self.started = done, time.monotonic()
        self.bar = Bar(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=self.console,
            transient=True,
            disable=not (shown and self.console.is_terminal),
        )
        self.task = self.bar.add_task("", total=total, completed=done)

    def __enter__(self) -> Progress:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Hide the bar and stop its thread while something else uses the terminal or forks.

        A process forked while the thread draws would inherit its locks and could wait for them
        forever.
        """
        self.bar.stop()
        try:
            yield
        finally:
            self.bar.start()

    def print(self, text: str) -> None:
        """Print a line that stays."""
        self.console.print(text, markup=False)

    def advance(self, iteration: int) -> None:
        """Move the bar to an iteration."""
        self.bar.update(self.task, completed=iteration)

    def show_figures(self, figures: Mapping[str, Any]) -> None:
        """Print the AP of an evaluation, in per cent."""
        cells = [
            f"{key} {percent(figures[key])}"
            for key in ("AP", "AP50", "AP75", "APs", "APm", "APl")
            if figures.get(key) is not None
        ]
        self.print(f"iteration {figures['iteration']}: {'  '.join(cells)}")

    def show(self, record: Record) -> None:
        """Show losses and rates of a record."""
        losses = [f"{k} {v:.4f}" for k, v in record.items() if k.startswith("loss")]
        text = (
            f"{'  '.join(losses) or 'no finite loss'}"
            f"  rate {record['rate']:.2g}  {record['images_per_second']:.1f} images/s"
            f"  waiting for data {record['waiting_for_data']:.0%}  {record['memory_mib']} MiB"
        )
        if self.console.is_terminal:
            self.bar.update(self.task, description=text)
        else:
            done = record["iteration"] - self.first
            left = (time.monotonic() - self.started) / done * (self.total - record["iteration"])
            self.print(f"{record['iteration']}/{self.total}  {text}  left {_duration(left)}")


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
