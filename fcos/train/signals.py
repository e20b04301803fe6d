"""Being asked to stop: by a user, a cluster that wants its machine back, an elastic restart."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

STOP = ("SIGTERM", "SIGINT", "SIGUSR1")


class StopSignals:
    """While entered, notes the first of SIGTERM, SIGINT or SIGUSR1 instead of dying of it.

    Launchers send a signal more than once; repetitions change nothing. `received` is its number,
    0 for none.
    """

    def __init__(self) -> None:
        self.received = 0
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for name in STOP:
                if hasattr(signal, name):  # Windows has no SIGUSR1
                    number = getattr(signal, name)
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or number
