"""Result rows gathered into lines: what was measured of an entry under one set of settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import zoo

Row = Mapping[str, Any]

# What tells one line of an entry from another.
SETTINGS = ("precision", "layout", "compiled", "size", "threads", "weights")
# Metrics that know few settings or none: each line of the entry has them.
STATIC = ("params", "flops", "training_memory")


@dataclass
class Line:
    """Result rows of an entry by metric; `settings` are empty where nothing was run.

    `sweeps` are the rows of throughput, a batch size each; the fastest stands in `results` too.
    """

    machine: str
    entry: str
    settings: Mapping[str, Any]
    results: dict[str, Row] = field(default_factory=dict)
    sweeps: list[Row] = field(default_factory=list)

    @property
    def precision(self) -> str:
        """Of the network's arithmetic."""
        return str(self.settings.get("precision", "fp32"))

    @property
    def how(self) -> str:
        """The settings in a few words."""
        words = [self.precision]
        if self.settings.get("compiled"):
            words.append("compiled")
        if self.settings.get("layout") == "contiguous":
            words.append("contiguous")
        return " ".join(words)

    @property
    def size(self) -> str:
        """The test size, where it is not the published one."""
        size = self.settings.get("size")
        return f"{size[0]}/{size[1]}" if size else ""

    @property
    def as_published(self) -> bool:
        """Whether it was measured as the tables were: fp32, eager, the published test size."""
        return self.how == "fp32" and not self.settings.get("size")

    @property
    def of_user(self) -> bool:
        """Whether it was measured with a file of the user's, not with the published weights."""
        return str(self.settings.get("weights")).startswith("file@")

    def keep(self, row: Row) -> None:
        """Take a row, unless the one that is there stands better for its metric."""
        metric = row["cell"]["metric"]
        if metric not in self.results or _worth(row) >= _worth(self.results[metric]):
            self.results[metric] = row

    @property
    def published(self) -> Mapping[str, Any]:
        """The entry's published figures; none for a peer that the zoo does not know."""
        try:
            return zoo.card(self.entry).published
        except LookupError:
            return {}

    @property
    def published_ms(self) -> float | None:
        """The published time of an image in milliseconds, whatever unit its page gives it in."""
        figures = self.published
        if "time_ms" in figures:
            return float(figures["time_ms"])
        if "fps" in figures:
            return 1e3 / float(figures["fps"])
        return 1e3 * float(figures["time_s"]) if "time_s" in figures else None

    def values(self, metric: str) -> Mapping[str, Any] | None:
        """What was measured, or None."""
        row = self.results.get(metric)
        return row["values"] if row and row["status"] == "measured" else None


def lines(rows: Iterable[Row]) -> list[Line]:
    """The lines of result rows: those of an entry together, the published size and precision first,
    entries in the order of the rows."""
    rows = list(rows)
    found: dict[tuple[Any, ...], Line] = {}
    static: list[Row] = []
    for row in sorted(rows, key=lambda row: row.get("time", "")):  # the last of equals stands
        cell = row["cell"]
        if cell["metric"] in STATIC:
            static.append(row)
            continue
        settings = {name: _setting(row, name) for name in SETTINGS}
        place = (row["machine"], cell["entry"], *settings.values())
        line = found.setdefault(place, Line(row["machine"], cell["entry"], settings))
        if cell["metric"] == "throughput":
            line.sweeps.append(row)
            row = max(line.sweeps, key=lambda row: row["values"].get("images_per_second", 0.0))
            line.results["throughput"] = row
        else:
            line.keep(row)
    # Training memory first: it may add lines, which parameters and GFLOPs then belong to as well.
    for row in sorted(static, key=lambda row: row["cell"]["metric"] != "training_memory"):
        _spread(row, found)
    first: dict[tuple[str, str], int] = {}
    for row in rows:
        first.setdefault((row["machine"], row["cell"]["entry"]), len(first))

    def place_of(line: Line) -> tuple[int, bool, bool]:
        return first[line.machine, line.entry], line.size != "", line.precision != "fp32"

    return sorted(found.values(), key=place_of)


def _spread(row: Row, found: dict[tuple[Any, ...], Line]) -> None:
    """Give a static row to all lines of its entry, or a line of its own where there is none."""
    machine, cell = row["machine"], row["cell"]
    wanted = cell["precision"] if cell["metric"] == "training_memory" else None
    mine = [
        line
        for line in found.values()
        if (line.machine, line.entry) == (machine, cell["entry"])
        and wanted in (None, line.precision)
    ]
    if not mine:
        precision = wanted or "fp32"
        mine = [Line(machine, cell["entry"], {"precision": precision})]
        found[machine, cell["entry"], precision] = mine[0]
    for line in mine:
        line.results[cell["metric"]] = row


def threads(line: Line, among: Iterable[Line]) -> str:
    """A line's threads, where another of its entry and machine has other ones."""
    counts = {
        other.settings.get("threads")
        for other in among
        if (other.machine, other.entry) == (line.machine, line.entry)
    } - {None}
    own = line.settings.get("threads")
    return f"{own} thread{'s' if own > 1 else ''}" if own and len(counts) > 1 else ""


def source(row: Row) -> str:
    """Where the weights came from: "published", "file", "random" or "peer"."""
    return str(row["cell"]["weights"]).partition("@")[0]


def _worth(row: Row) -> tuple[int, ...]:
    """How well a row stands for its metric beside others of it, of which the last counts: a figure
    before none, AP of all val2017 before that of less, a user's own weights after all others, and
    more images before fewer."""
    measured, weights = row["status"] == "measured", source(row)
    whole = measured and row["values"].get("split") == "val2017"
    images = row["values"].get("images", 0)
    return measured, weights != "file", whole, weights == "published", images


def _setting(row: Row, name: str) -> Any:
    value = row["cell"][name]
    if name == "threads" and value is None:  # torch's own choice
        return row["environment"].get("threads")
    return tuple(value) if isinstance(value, list) else value
