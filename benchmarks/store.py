"""Results on disk: one JSON line a measurement, appended whole and never changed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock

from benchmarks.cell import Cell, Outcome
from benchmarks.environment import machine

SCHEMA = 1
NEEDED = ("machine", "cell", "status", "reason", "values", "command", "environment")
Row = dict[str, Any]
# Facts of the environment that make another measurement of the same cell.
SOFTWARE = ("code", "torch", "torchvision", "cuda", "cudnn", "driver")


def row_of(cell: Cell, outcome: Outcome, environment: dict[str, Any], command: str) -> Row:
    """A measurement as it is kept, with all that is needed to understand it alone."""
    return {
        "schema": SCHEMA,
        "key": cell.key,
        "machine": machine(environment),
        "cell": cell.identity,
        "status": outcome.status,
        "reason": outcome.reason,
        "values": outcome.values,
        "weights_note": cell.weights.note,
        "seconds": outcome.seconds,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "environment": environment,
    }


class Store:
    """A results file that any number of processes may append to at once.

    A line that was cut off when its writer was killed is passed over, and its cell counts as not
    measured.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = FileLock(f"{self.path}.lock")

    def append(self, row: Row) -> None:
        """Add a row; it is on the disk when this returns."""
        line = json.dumps(row, separators=(",", ":"), allow_nan=False) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock, open(self.path, "ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # what a killed writer left gets a line of its own
                    line = "\n" + line
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())

    def rows(self) -> list[Row]:
        """All whole rows, in the order in which they were written."""
        return read([self.path]) if self.path.exists() else []

    def merge(self, rows: Iterable[Row]) -> int:
        """Append those rows that are not here yet; returns how many."""
        here = {json.dumps(row, sort_keys=True) for row in self.rows()}
        added = 0
        for row in rows:
            text = json.dumps(row, sort_keys=True)
            if text not in here:
                here.add(text)
                self.append(row)
                added += 1
        return added

    def done(self, environment: dict[str, Any]) -> dict[str, Row]:
        """By cell, what this machine has measured with this very code and software."""
        here = [environment.get(name) for name in SOFTWARE]
        rows = [
            row
            for row in self.rows()
            if row["status"] == "measured"
            and row["machine"] == machine(environment)
            and [row["environment"].get(name) for name in SOFTWARE] == here
        ]
        return {row["key"]: row for row in newest(rows)}


def read(paths: Iterable[str | Path]) -> list[Row]:
    """The whole rows of results files.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file was written by a newer version, or by something else.
    """
    rows: list[Row] = []
    for path in paths:
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such results file")
        for number, line in enumerate(Path(path).read_bytes().split(b"\n"), 1):
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if not isinstance(row, dict) or "key" not in row:
                continue
            if row.get("schema", 0) > SCHEMA:
                raise ValueError(f"{path}:{number}: written by a newer version of this package")
            if lacking := [name for name in NEEDED if name not in row]:
                raise ValueError(f"{path}:{number}: no row of results, as it has no {lacking[0]!r}")
            rows.append(row)
    return rows


def newest(rows: Sequence[Row]) -> list[Row]:
    """Of each cell on each machine the row measured last, whatever the order of rows; one stands
    against later ones of the same code that did not measure, or in fewer processes."""
    found: dict[tuple[str, str], Row] = {}
    for row in sorted(rows, key=lambda row: row.get("time", "")):
        place = row["key"], row["machine"]
        before = found.get(place)
        same = before and before["environment"].get("code") == row["environment"].get("code")
        if before and same and _worth(before) > _worth(row):
            continue
        found[place] = row
    return [found[place] for place in dict.fromkeys((row["key"], row["machine"]) for row in rows)]


def _worth(row: Row) -> int:
    """In how many processes a row was measured; of what takes one alone 1, of a failure 0."""
    return row["values"].get("processes", 1) if row["status"] == "measured" else 0
