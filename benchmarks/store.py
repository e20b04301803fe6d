"""Results on disk: one line of JSON per measurement, appended as a whole and never changed."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock

from benchmarks.cases import Case, Result
from benchmarks.environment import machine

SCHEMA = 1
# The required fields of a row, and their types.
FIELDS: dict[str, type] = {
    **dict.fromkeys(("key", "machine", "status", "reason", "command"), str),
    **dict.fromkeys(("cell", "values", "environment"), dict),
    **dict.fromkeys(("cell.entry", "cell.metric", "cell.device", "cell.precision"), str),
    "cell.batch": int,
}
# Values that are numbers, or null if there is no such figure.
NUMBERS = frozenset(
    (
        *("parameters", "trained", "gflops", "backbone_gflops", "predicted_gb", "measured_gb"),
        *("median", "mean", "p90", "p99", "noise", "n", "processes", "images_per_second"),
        *("peak_mb", "candidates", "detections", "AP", "AP50", "AP75", "APs", "APm", "APl"),
        *("ece", "oce", "oce_threshold"),
    )
)
RENAMED = {"benchmarks.peers:torchvision_fcos": "benchmarks.baselines:torchvision_fcos"}
Row = dict[str, Any]
# Facts of the environment that distinguish measurements of the same case.
SOFTWARE = ("code", "torch", "torchvision", "cuda", "cudnn", "driver")


def row_of(case: Case, result: Result, environment: dict[str, Any], command: str) -> Row:
    """Return a measurement for storage, with everything that is needed to understand it."""
    return {
        "schema": SCHEMA,
        "key": case.key,
        "machine": machine(environment),
        "cell": case.identity,
        "status": result.status,
        "reason": result.reason,
        "values": result.values,
        "weights_note": case.weights.note,
        "seconds": result.seconds,
        "time": now(),
        "command": command,
        "environment": environment,
    }


def now() -> str:
    """Return the present time in UTC, in a format that sorts by time."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


class Store:
    """A results file that any number of processes may append to at once.

    A line that was cut off when its writer was killed is ignored, as if its case were not measured.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = FileLock(f"{self.path}.lock")

    def append(self, row: Row) -> None:
        """Append a row; it is on disk when this returns.

        Raises:
            OSError: it cannot be written completely; the error names the file. Other rows stay
                intact.
        """
        self._write(json.dumps(row, separators=(",", ":"), allow_nan=False) + "\n")

    def check(self) -> None:
        """Check, before anything is measured, that rows can be appended and will be the newest.

        Warns of rows with a later time, which would hide new rows of the same cases: the clock was
        set back, or is wrong on one of several machines.

        Raises:
            OSError: the file cannot be written; the error names it.
        """
        if self.path.is_dir():
            raise IsADirectoryError(f"{self.path} is a folder: name a file")
        self._write("")
        latest = max((str(row.get("time", "")) for row in self.rows()), default="")
        if latest > now():
            warnings.warn(
                f"{self.path} has a row of {latest}, which is later than now, {now()}, and will "
                "count as newer than what is measured now: set the clock, or choose another file",
                stacklevel=2,
            )

    def _write(self, line: str) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._lock, open(self.path, "ab+") as file:
                if line and file.tell():
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":  # end the line of a killed writer
                        line = "\n" + line
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            error.filename = str(self.path)
            raise

    def rows(self) -> list[Row]:
        """Return all complete rows, in the order in which they were written."""
        return read([self.path]) if self.path.exists() else []

    def merge(self, rows: Iterable[Row]) -> int:
        """Append the rows that are not in the file yet; returns their number."""
        present = {json.dumps(row, sort_keys=True) for row in self.rows()}
        given = {json.dumps(row, sort_keys=True): row for row in rows}
        added = [row for text, row in given.items() if text not in present]
        for row in added:
            self.append(row)
        return len(added)

    def done(self, environment: dict[str, Any]) -> dict[str, Row]:
        """Return the measured rows of this machine with the same code and software, by key."""
        software = [environment.get(name) for name in SOFTWARE]
        rows = [
            row
            for row in self.rows()
            if row["status"] == "measured"
            and row["machine"] == machine(environment)
            and [row["environment"].get(name) for name in SOFTWARE] == software
        ]
        return {row["key"]: row for row in newest(rows)}


def read(paths: Iterable[str | Path]) -> list[Row]:
    """Read the complete rows of results files.

    A row with a missing field or one of a wrong type is skipped, with a warning that names file and
    line.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file was written by a newer version, or has no results row at all.
    """
    rows: list[Row] = []
    for path in paths:
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such results file")
        before, problems = len(rows), []
        for number, line in enumerate(Path(path).read_bytes().split(b"\n"), 1):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue  # empty, or cut off
            problem = _problem(row)
            if problem is None:
                row["cell"]["entry"] = RENAMED.get(row["cell"]["entry"], row["cell"]["entry"])
                rows.append(row)
            elif problem == NEWER:
                raise ValueError(f"{path}:{number}: {problem}")
            else:
                problems.append(f"{path}:{number}: not a row of results: {problem}")
        if problems and len(rows) == before:
            raise ValueError(problems[0])
        for problem in problems:
            warnings.warn(problem, stacklevel=2)
    return rows


NEWER = "written by a newer version of this package"


def _problem(row: Any) -> str | None:
    """Return what is wrong with a row; None if it can be used."""
    if not isinstance(row, dict):
        return "not an object"
    schema = row.get("schema", 0)
    if isinstance(schema, int) and schema > SCHEMA:
        return NEWER
    for path, kind in FIELDS.items():
        part, name = (row["cell"] if "." in path else row), path.removeprefix("cell.")
        if name not in part:
            return f"{path} is missing"
        if not isinstance(part[name], kind):
            return f"{path} is not a {kind.__name__}"
    for name in NUMBERS & row["values"].keys():
        value = row["values"][name]
        if not isinstance(value, int | float | None) or isinstance(value, bool):
            return f"values.{name} is not a number"
    return None


def newest(rows: Sequence[Row]) -> list[Row]:
    """Return the latest row of each case and machine, whatever the order of the rows.

    A row that failed or has fewer processes than an earlier one replaces that only if its code is
    different.
    """
    latest: dict[tuple[str, str], Row] = {}
    for row in sorted(rows, key=lambda row: str(row.get("time", ""))):
        key = row["key"], row["machine"]
        before = latest.get(key)
        same_code = before and before["environment"].get("code") == row["environment"].get("code")
        if before and same_code and _processes(before) > _processes(row):
            continue
        latest[key] = row
    return [latest[key] for key in dict.fromkeys((row["key"], row["machine"]) for row in rows)]


def _processes(row: Row) -> int:
    """Return the number of processes that measured a row; 0 if it failed."""
    return row["values"].get("processes", 1) if row["status"] == "measured" else 0
