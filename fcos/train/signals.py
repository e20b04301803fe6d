"""Requests to stop: by a user, a cluster that needs its machine back, an elastic restart."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

STOP = ("SIGTERM", "SIGINT", "SIGUSR1")
# torchrun passes on the Ctrl-C that its workers have had from the terminal already.
REPEATED_WITHIN = 3.0  # seconds


class StopSignals:
    """While entered, notes SIGTERM, SIGINT and SIGUSR1 instead of ending the process.

    The same SIGTERM or SIGINT again, later than launchers repeat it, ends the process at once, for
    a run may hang in its data or in another process.

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
        again = number in self._received_at and name != "SIGUSR1"
        if again and now - self._received_at[number] > REPEATED_WITHIN:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._received_at.setdefault(number, now)
        if not self.received and self.announce:
            again_at_once = "" if name == "SIGUSR1" else "; send it again to stop without saving"
            line = f"\n{name}: saving and stopping{again_at_once}\n"
            os.write(2, line.encode())  # a handler must not wait for the lock of `sys.stderr`
        self.received = self.received or number
