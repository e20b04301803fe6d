"""A suite: the cases to measure, from a config of `configs/suite` and the user's options."""

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
from benchmarks import baselines, workload
from benchmarks.cases import (
    ACCURACY,
    METRICS,
    PRECISIONS,
    STATIC,
    Case,
    Dataset,
    TimingBudget,
    Weights,
)
from benchmarks.dataset import default_dataset, embedded, safe_subset
from zoo.config import compose, quoted
from zoo.registry import CONFIGS, Card


@dataclass(frozen=True)
class Suite:
    """What to measure: every combination of the settings is a case.

    Args:
        entries: names of the zoo, with shell wildcards, and files that training or export wrote. An
            exported file is measured in its precision, without compilation and layouts.
        baselines: other detectors, "module:function", see `benchmarks.baselines`.
        metrics, precisions, layouts, compiled, winograd, device, threads, timing: see
            `benchmarks.cases`.
        batches: batch sizes of throughput, in increasing order.
        size: largest (shortest, longest) side of the images; smaller test sizes are kept.
        dataset: the images; None for the embedded ones, or the shapes an entry was trained on.
        subset: "safe" for only the images that may be redistributed, see `dataset.safe_subset`.
        folder: folder for drawn shapes and for detections.
        limit, ap_limit: number of images to measure speed and AP on; None for all.
        evaluator: computes AP, one of `fcos.coco_eval.BACKENDS`.
        processes: number of processes that time each case, one after the other.
        weights_files, weights_folder: the user's weights, see
            `workload.resolve_weights`.
        cached_only: never download published weights.
        random_weights: measure speed and memory with random weights if there are no others.
        timeout: seconds that a process may take for a case.
        budget: seconds for the suite. If they are short, times are taken from fewer runs and
            processes; after them, no process is started.
        seed: shuffles the order of processes, so that no entry always runs on a warm machine.
        shard, shards: measure only every `shards`-th process or batch sweep, from `shard` on.
        parts: sets of changes of these settings. If given, the suite is measured once with each
            set, in that order, so that the most important cases come first.
    """

    entries: Sequence[str] = ()
    baselines: Sequence[str] = ()
    metrics: Sequence[str] = ("params", "flops", "latency", "memory", "ap")
    precisions: Sequence[str] = ("fp32",)
    layouts: Sequence[str] = ("channels_last",)
    compiled: Sequence[bool] = (False,)
    winograd: Sequence[bool] = (False,)
    batches: Sequence[int] = (1,)
    device: str = "cpu"
    threads: int | None = None
    size: tuple[int, int] | None = None
    dataset: Dataset | None = None
    subset: str | None = None
    folder: Path = Path("outputs/bench")
    limit: int | None = None
    ap_limit: int | None = None
    evaluator: str = "pycocotools"
    timing: TimingBudget = field(default_factory=TimingBudget)
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
    parts: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        for words, known in ((self.metrics, METRICS), (self.precisions, PRECISIONS)):
            for word in words:
                if word not in known:
                    raise ValueError(f"unknown {word!r}; choose from {', '.join(known)}")
        if not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            raise ValueError(f"unknown device {self.device!r}; choose cpu, cuda or cuda:N")
        if self.subset not in (None, "safe"):
            raise ValueError(f"unknown subset {self.subset!r}; the only one is safe")
        if self.processes < 1:
            raise ValueError(f"processes must be at least 1, not {self.processes}")
        if not 0 <= self.shard < self.shards:
            raise ValueError(f"shard {self.shard} is not between 0 and {self.shards - 1}")

    def names(self) -> list[str]:
        """Return the entries that the patterns match, in the order of the patterns.

        Raises:
            LookupError: a pattern matches nothing.
        """
        names: dict[str, None] = {}
        for pattern in self.entries:
            is_file = workload.kind(pattern) in ("trained", "exported")
            matches = [pattern] if is_file else zoo.names(pattern)
            if not matches:
                zoo.card(pattern)  # raises an error with the most similar names
            names.update(dict.fromkeys(matches))
        return list(names)

    def cases(self) -> list[Case]:
        """Return every case, grouped by entry. Fetches weights and draws shapes."""
        if self.parts:
            parts = [dataclasses.replace(self, parts=(), **part) for part in self.parts]
            return list(dict.fromkeys(case for part in parts for case in part.cases()))
        # Explicit, since torch's default differs between machines.
        threads = self.threads or torch.get_num_threads()
        cases: dict[Case, None] = {}
        for name in [*self.names(), *map(baselines.full_name, self.baselines)]:
            facts = self._facts(name)
            common = Case(name, "params", device=self.device, threads=threads, **facts)
            for metric in METRICS:
                if metric in self.metrics:
                    cases.update(dict.fromkeys(self._of_metric(common, metric)))
        return list(cases)

    def jobs(self, cases: Sequence[Case]) -> list[list[Case]]:
        """Group cases by process: one each, except that the static metrics of an entry share one.

        The batch sizes of a throughput sweep follow each other in increasing order, since none is
        tried after one that did not fit.
        """
        groups: dict[Any, list[Case]] = {}
        for case in cases:
            key = case.entry if _shares_process(case) else dataclasses.replace(case, batch=1)
            groups.setdefault(key, []).append(case)
        shuffled = list(groups.values())
        if self.seed is not None:
            random.Random(self.seed).shuffle(shuffled)
        jobs: list[list[Case]] = []
        for group in shuffled[self.shard :: self.shards]:
            ascending = sorted(group, key=lambda case: case.batch)
            jobs += [group] if _shares_process(group[0]) else [[case] for case in ascending]
        return jobs

    def _facts(self, name: str) -> dict[str, Any]:
        """Return the settings that all cases of an entry, a file or a baseline share."""
        kind = workload.kind(name)
        if kind == "baseline":
            source = Weights("baseline", digest=baselines.digest(name))
            return {"size": self.size, "dataset": self._dataset(), "weights": source}
        if kind == "exported":
            file = zoo.load(name)
            return {
                "precision": file.precision,
                "size": smaller(file.description["input"]["resize"], self.size),
                "dataset": self._dataset(file.card),
                "weights": self._weights(name),
                "runtime": file.runtime,
            }
        trained = workload.architecture(name) if kind == "trained" else None
        card = trained.card if trained else zoo.card(name)
        config = (trained.settings if trained else None) or card.config
        needs_images = bool(set(self.metrics) - STATIC)
        needs_weights = needs_images or trained is not None
        return {
            "size": smaller(config["resize"], self.size),
            "dataset": self._dataset(card) if needs_images else None,
            "weights": self._weights(name) if needs_weights else Weights(note="not needed"),
        }

    def _of_metric(self, common: Case, metric: str) -> Iterator[Case]:
        """Yield the cases of a metric, each with only the settings that affect it."""
        kind = workload.kind(common.entry)
        only_entries = (
            ("flops",) if self.device.startswith("cuda") else ("flops", "training_memory")
        )
        if kind == "baseline" and metric in only_entries:
            return
        # Adapters and runtimes choose a layout themselves; an exported file has one precision.
        fixed = kind in ("baseline", "exported")
        precisions = (common.precision,) if kind == "exported" else self.precisions
        source = Weights() if kind == "entry" else common.weights
        static = Case(common.entry, metric, weights=source, runtime=common.runtime)
        if metric in ("params", "flops"):  # always counted at the published size
            yield static
        elif metric == "training_memory":
            for precision in precisions:
                yield dataclasses.replace(static, device=self.device, precision=precision)
        elif metric in ACCURACY:
            for precision in precisions:
                yield dataclasses.replace(
                    common,
                    metric=metric,
                    precision=precision,
                    limit=self.ap_limit,
                    detections_dir=str(self.folder / "detections") if metric == "ap" else None,
                    evaluator=self.evaluator,
                )
        else:
            for precision, layout, compiled, winograd, batch in itertools.product(
                precisions,
                ("channels_last",) if fixed else self.layouts,
                (False,) if fixed else self.compiled,
                (False,) if fixed else self.winograd,
                self.batches if metric == "throughput" else (1,),
            ):
                yield dataclasses.replace(
                    common,
                    metric=metric,
                    precision=precision,
                    layout=layout,
                    compiled=compiled,
                    winograd=winograd,
                    batch=batch,
                    limit=self.limit,
                    timing=TimingBudget() if metric == "memory" else self.timing,
                )

    def _dataset(self, card: Card | None = None) -> Dataset:
        """Return the images to measure on; by default those of an entry or the embedded ones."""
        folder = self.folder / "data"
        dataset = self.dataset or (default_dataset(card, folder) if card else embedded())
        drawn = dataset.name == "shapes"  # by this project, so they need no license
        return safe_subset(dataset, folder) if self.subset and not drawn else dataset

    def _weights(self, name: str) -> Weights:
        return workload.resolve_weights(
            name, self.weights_files, self.weights_folder, self.cached_only
        )


def _shares_process(case: Case) -> bool:
    """Whether a case may share a process: it is static, and measures no peak memory of a GPU."""
    on_gpu = case.metric == "training_memory" and case.device.startswith("cuda")
    return case.metric in STATIC and not on_gpu


def smaller(rule: Mapping[str, Any], size: tuple[int, int] | None) -> tuple[int, int] | None:
    """Return `size` if it is smaller than an entry's test size, else None to keep that."""
    published = (rule["size"], rule.get("longest", rule["size"]))
    if size is None or (published[0] <= size[0] and published[1] <= size[1]):
        return None
    return min(published[0], size[0]), min(published[1], size[1])


def suites() -> list[str]:
    """Return the names of all suites."""
    return sorted(path.stem for path in (CONFIGS / "suite").glob("*.yaml"))


def load(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the settings of a suite, with Hydra `overrides`, as arguments of `Suite`.

    Raises:
        LookupError: there is no such suite.
        ValueError: a key or value is unknown.
    """
    if name not in suites():
        raise LookupError(f"no suite {name!r}; choose from {', '.join(suites())}")
    return settings(compose(f"suite/{name}", quoted(overrides)))


def settings(config: Any) -> dict[str, Any]:
    """Convert the plain config of a suite to arguments of `Suite`."""
    fields = {field.name for field in dataclasses.fields(Suite)}
    for key in config:
        if key not in fields:
            raise ValueError(f"a suite has no {key!r}; choose from {', '.join(sorted(fields))}")
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in config.items()
    }
    if "parts" in values:
        values["parts"] = tuple(settings(part) for part in values["parts"])
    if "timing" in values:
        values["timing"] = TimingBudget(**values["timing"])
    if values.get("dataset") is not None:
        values["dataset"] = Dataset.of(*values["dataset"])
    for key in ("folder", "weights_folder"):
        if values.get(key) is not None:
            values[key] = Path(values[key])
    if "weights_files" in values:
        values["weights_files"] = {k: Path(v) for k, v in values["weights_files"].items()}
    return values
