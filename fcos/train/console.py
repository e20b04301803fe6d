"""The terminal of a run: the progress that it shows, and the signals that stop it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any

from rich import progress
from rich.console import Console

from fcos.coco_eval import percent

STOP = ("SIGTERM", "SIGINT", "SIGUSR1")
# torchrun passes on the Ctrl-C that its workers have had from the terminal already.
REPEATED_WITHIN = 3.0  # seconds


class Progress(progress.Progress):
    """A progress bar on a terminal, a line for each record elsewhere.

    Args:
        total: iterations of the schedule.
        done: iterations that a resumed run has taken.
        shown: whether this process prints anything.
    """

    def __init__(self, total: int, done: int, shown: bool = True) -> None:
        console = Console(
            stderr=True, quiet=not shown, soft_wrap=True, markup=False, emoji=False, highlight=False
        )
        super().__init__(
            progress.TextColumn("training"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.description}"),
            console=console,
            transient=True,
            disable=not (shown and console.is_terminal),
        )
        self.total, self.first, self.started = total, done, time.monotonic()
        self.bar = self.add_task("", total=total, completed=done)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Hide the bar and stop its thread while something else uses the terminal or forks.

        A process forked while the thread draws would inherit its locks and could wait for them
        forever.
        """
        self.stop()
        try:
            yield
        finally:
            self.start()

    def show(self, record: Mapping[str, Any]) -> None:
        """Show losses and rates of a record."""
        losses = [f"{k} {v:.4f}" for k, v in record.items() if k.startswith("loss")]
        text = (
            f"{'  '.join(losses) or 'no finite loss'}"
            f"  rate {record['rate']:.2g}  {record['images_per_second']:.1f} images/s"
            f"  waiting for data {record['waiting_for_data']:.0%}  {record['memory_mib']} MiB"
        )
        if self.console.is_terminal:
            self.update(self.bar, description=text)
        else:
            done = record["iteration"] - self.first
            left = (time.monotonic() - self.started) / done * (self.total - record["iteration"])
            time_left = timedelta(seconds=round(left))
            self.console.print(f"{record['iteration']}/{self.total}  {text}  left {time_left}")

    def show_figures(self, figures: Mapping[str, Any]) -> None:
        """Print the AP of an evaluation, in per cent."""
        cells = [
            f"{key} {percent(figures[key])}"
            for key in ("AP", "AP50", "AP75", "APs", "APm", "APl")
            if figures.get(key) is not None
        ]
        self.console.print(f"iteration {figures['iteration']}: {'  '.join(cells)}")


class StopSignals:
    """While entered, notes SIGTERM, SIGINT and SIGUSR1 instead of ending the process.

    They come from a user, a cluster that needs its machine back, or an elastic restart. The same
    SIGTERM or SIGINT again, later than launchers repeat it, ends the process at once, for a run may
    hang in its data or in another process.

    Args:
        announce: whether to print a line when the first signal arrives.

    Attributes:
        received: the number of the first signal, 0 for none.
    """

    def __init__(self, announce: bool = True) -> None:
        self.announce = announce
        self.received = 0
        self._received_at: dict[int, float] = {}
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for name in STOP:
                if hasattr(signal, name):  # Windows has no SIGUSR1
                    number = getattr(signal, name)
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        now = time.monotonic()
        first = self._received_at.setdefault(number, now)
        if name != "SIGUSR1" and now - first > REPEATED_WITHIN:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        if not self.received and self.announce:
            again_at_once = "" if name == "SIGUSR1" else "; send it again to stop without saving"
            line = f"\n{name}: saving and stopping{again_at_once}\n"
            os.write(2, line.encode())  # a handler must not wait for the lock of `sys.stderr`
        self.received = self.received or number
