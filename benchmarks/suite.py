"""A suite: which cells to measure, from a config of `configs/suite` and what the user adds."""

from __future__ import annotations

import dataclasses
import itertools
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import zoo
from benchmarks import peers, pictures, weights
from benchmarks.cell import METRICS, PRECISIONS, STATIC, Cell, Dataset, Pace, Weights
from zoo.card import Card
from zoo.compose import CONFIGS, composed


@dataclass(frozen=True)
class Suite:
    """What to measure; every combination is a cell.

    Args:
        entries: names of the zoo, shell wildcards among them.
        peers: other detectors, "module:function", see `benchmarks.peers`.
        metrics, precisions, layouts, compiled, device, threads, pace: see `benchmarks.cell`.
        batches: of throughput, from small to large.
        size: (shortest, longest) side at most; smaller test sizes stay.
        dataset: the images; None for an entry's own: the embedded ones, or drawn shapes.
        folder: where shapes are drawn to, and detections kept.
        limit, ap_limit: how many images speed and AP are measured on; None for all.
        evaluator: of AP, one of `fcos.evaluate.BACKENDS`.
        processes: fresh ones that each time is measured in, one after the other.
        weights_files, weights_folder: a user's weights, see `benchmarks.weights.resolve`.
        cached_only: published weights are never downloaded.
        random_weights: speed and memory are measured, and labelled so, where there are no weights.
        timeout: seconds a process may take for a cell.
        budget: seconds after which no process is started any more.
        seed: shuffles the order of processes, so that no entry always runs on a warm machine.
        shard, shards: measure every `shards`-th process or sweep alone, from `shard` on.
    """

    entries: Sequence[str] = ()
    peers: Sequence[str] = ()
    metrics: Sequence[str] = ("params", "flops", "latency", "memory", "ap")
    precisions: Sequence[str] = ("fp32",)
    layouts: Sequence[str] = ("channels_last",)
    compiled: Sequence[bool] = (False,)
    batches: Sequence[int] = (1,)
    device: str = "cpu"
    threads: int | None = None
    size: tuple[int, int] | None = None
    dataset: Dataset | None = None
    folder: Path = Path("outputs/bench")
    limit: int | None = None
    ap_limit: int | None = None
    evaluator: str = "pycocotools"
    pace: Pace = field(default_factory=Pace)
    processes: int = 4
    weights_files: Mapping[str, Path] = field(default_factory=dict)
    weights_folder: Path | None = None
    cached_only: bool = False
    random_weights: bool = True
    timeout: float = 900.0
    budget: float | None = None
    seed: int | None = None
    shard: int = 0
    shards: int = 1

    def __post_init__(self) -> None:
        for words, known in ((self.metrics, METRICS), (self.precisions, PRECISIONS)):
            for word in words:
                if word not in known:
                    raise ValueError(f"no {word!r}; there are {', '.join(known)}")
        if not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            raise ValueError(f"no device {self.device!r}; there are cpu, cuda and cuda:N")
        if self.processes < 1:
            raise ValueError(f"no time can be measured in {self.processes} processes")
        if not 0 <= self.shard < self.shards:
            raise ValueError(f"shard {self.shard} is not one of {self.shards}, counted from 0")

    def names(self) -> list[str]:
        """The entries that its patterns name, in the order of the patterns.

        Raises:
            LookupError: one names nothing.
        """
        found: dict[str, None] = {}
        for pattern in self.entries:
            matches = zoo.names(pattern)
            if not matches:
                zoo.card(pattern)  # raises, with the nearest names
            found.update(dict.fromkeys(matches))
        return list(found)

    def cells(self) -> list[Cell]:
        """Every cell, those of an entry together; weights are fetched and shapes drawn here."""
        cells: list[Cell] = []
        threads = (
            self.threads or torch.get_num_threads()
        )  # another machine's choice is another cell
        for name in self.names():
            card = zoo.card(name)
            used = set(self.metrics) - STATIC
            common = Cell(
                name,
                "params",
                device=self.device,
                threads=threads,
                size=smaller(card, self.size),
                dataset=self.dataset or pictures.own(card, self.folder / "data") if used else None,
                weights=self._weights(name) if used else Weights(note="not needed"),
            )
            for metric in METRICS:
                cells += self._of_metric(common, metric) if metric in self.metrics else ()
        for name in self.peers:
            full = peers.qualified(name)
            peer = Cell(
                full,
                "params",
                device=self.device,
                threads=threads,
                size=self.size,
                dataset=self.dataset or pictures.embedded(),
                weights=Weights("peer", digest=peers.digest(full)),
            )
            for metric in peers.METRICS:
                cells += self._of_metric(peer, metric) if metric in self.metrics else ()
        return list(dict.fromkeys(cells))

    def jobs(self, cells: Sequence[Cell]) -> list[list[Cell]]:
        """Cells by process: one each, but for the metrics of an entry that nothing disturbs.

        The batches of a sweep stay together and grow, as none is tried after one that did not fit.
        """
        grouped: dict[Any, list[Cell]] = {}
        for cell in cells:
            place = cell.entry if _shares(cell) else dataclasses.replace(cell, batch=1)
            grouped.setdefault(place, []).append(cell)
        groups = list(grouped.values())
        if self.seed is not None:
            random.Random(self.seed).shuffle(groups)
        found: list[list[Cell]] = []
        for group in groups[self.shard :: self.shards]:
            ascending = sorted(group, key=lambda cell: cell.batch)
            found += [group] if _shares(group[0]) else [[cell] for cell in ascending]
        return found

    def _of_metric(self, common: Cell, metric: str) -> Iterator[Cell]:
        """A metric's cells, each with only those settings that matter to it."""
        peer = peers.is_peer(common.entry)
        if metric in ("params", "flops"):  # quick to count: at the published size always
            yield Cell(common.entry, metric, weights=common.weights if peer else Weights())
        elif metric == "training_memory":
            for precision in self.precisions:
                yield Cell(common.entry, metric, device=self.device, precision=precision)
        elif metric == "ap":
            for precision in self.precisions:
                yield dataclasses.replace(
                    common,
                    metric=metric,
                    precision=precision,
                    limit=self.ap_limit,
                    keep=str(self.folder / "detections"),
                    evaluator=self.evaluator,
                )
        else:
            for precision, layout, compiled, batch in itertools.product(
                self.precisions,
                ("channels_last",) if peer else self.layouts,  # an adapter decides these itself
                (False,) if peer else self.compiled,
                self.batches if metric == "throughput" else (1,),
            ):
                yield dataclasses.replace(
                    common,
                    metric=metric,
                    precision=precision,
                    layout=layout,
                    compiled=compiled,
                    batch=batch,
                    limit=self.limit,
                    pace=Pace() if metric == "memory" else self.pace,
                )

    def _weights(self, name: str) -> Weights:
        return weights.resolve(name, self.weights_files, self.weights_folder, self.cached_only)


def _shares(cell: Cell) -> bool:
    """Whether it may share a process: nothing disturbs it, and no peak of a GPU is measured."""
    on_gpu = cell.metric == "training_memory" and cell.device.startswith("cuda")
    return cell.metric in STATIC and not on_gpu


def smaller(card: Card, size: tuple[int, int] | None) -> tuple[int, int] | None:
    """A test size that is no larger than the entry's own; None where that stays."""
    rule = card.config["resize"]
    own = (rule["size"], rule.get("longest", rule["size"]))
    if size is None or (own[0] <= size[0] and own[1] <= size[1]):
        return None
    return min(own[0], size[0]), min(own[1], size[1])


def suites() -> list[str]:
    """The names of all suites."""
    return sorted(path.stem for path in (CONFIGS / "suite").glob("*.yaml"))


def load(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The settings of a suite of `configs/suite`, with Hydra `overrides`, as `Suite` takes them.

    Raises:
        LookupError: there is no such suite.
        ValueError: a key or value that a suite does not have.
    """
    if name not in suites():
        raise LookupError(f"no suite {name!r}; there are {', '.join(suites())}")
    return settings(composed(f"suite/{name}", overrides))


def settings(config: Any) -> dict[str, Any]:
    """A suite's plain config as `Suite` takes it."""
    fields = {field.name for field in dataclasses.fields(Suite)}
    for key in config:
        if key not in fields:
            raise ValueError(f"a suite has no {key!r}; it has {', '.join(sorted(fields))}")
    found: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in config.items()
    }
    if "pace" in found:
        found["pace"] = Pace(**found["pace"])
    if found.get("dataset") is not None:
        found["dataset"] = Dataset.of(*found["dataset"])
    for key in ("folder", "weights_folder"):
        if found.get(key) is not None:
            found[key] = Path(found[key])
    if "weights_files" in found:
        found["weights_files"] = {k: Path(v) for k, v in found["weights_files"].items()}
    return found
