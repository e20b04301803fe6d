"""A cell of the results: what to measure, and what came of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# In the order in which they are measured and shown.
METRICS = ("params", "flops", "training_memory", "latency", "throughput", "memory", "ap")
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
# Metrics that no other work on the machine disturbs: those of one entry share a process.
STATIC = frozenset({"params", "flops", "training_memory"})
TIMED = frozenset({"latency", "throughput"})


@dataclass(frozen=True)
class Weights:
    """What a detector is filled with.

    `source`: "published", "file" (one given by the user) or "random"; `path` and the first digits
    of the SHA-256 of the first two; `note`: why they are random.
    """

    source: str = "random"
    path: str | None = None
    digest: str = ""
    note: str = ""


@dataclass(frozen=True)
class Dataset:
    """A COCO-format dataset; `digest` is of its annotation file, so that its place is no matter."""

    annotations: str
    images: str
    name: str
    digest: str

    @classmethod
    def of(cls, annotations: str | Path, images: str | Path) -> Dataset:
        """The dataset of an annotation file and the folder of its images."""
        path = Path(annotations)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such annotation file")
        if not Path(images).is_dir():
            raise FileNotFoundError(f"{images}: no such folder of images")
        name = path.parent.name if path.stem == "annotations" else path.stem
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        return cls(str(path.resolve()), str(Path(images).resolve()), name, digest)


@dataclass(frozen=True)
class Pace:
    """How long to time in each process: at least `rounds` over the images, `runs` runs and
    `seconds`, and no new round after `limit` seconds."""

    rounds: int = 1
    runs: int = 15
    seconds: float = 5.0
    limit: float = 60.0


@dataclass(frozen=True)
class Cell:
    """One measurement to make; a setting that does not touch its metric is left at its default.

    Args:
        entry: a name of the zoo, or "module:function" of a peer (see `benchmarks.peers`).
        metric: one of `METRICS`.
        device: "cpu", "cuda" or "cuda:1" and so on.
        precision: one of `PRECISIONS`.
        batch: images at a time.
        size: (shortest, longest) side instead of the entry's published test size.
        threads: of the CPU, or None for torch's own choice.
        compiled: the network goes through `torch.compile`.
        layout: "channels_last" or "contiguous" weights and inputs.
        dataset, limit: the images, and how many of them, the first ones.
        pace: of timed metrics.
        weights: what the detector is filled with.
        keep: a folder for detections, as `<key>.json`.
        evaluator: of AP, one of `fcos.evaluate.BACKENDS`, whose figures are the same.
    """

    entry: str
    metric: str
    device: str = "cpu"
    precision: str = "fp32"
    batch: int = 1
    size: tuple[int, int] | None = None
    threads: int | None = None
    compiled: bool = False
    layout: str = "channels_last"
    dataset: Dataset | None = None
    limit: int | None = None
    pace: Pace = field(default_factory=Pace)
    weights: Weights = field(default_factory=Weights)
    keep: str | None = None
    evaluator: str = "pycocotools"

    @property
    def identity(self) -> dict[str, Any]:
        """What makes it another measurement: everything but where files lie on this machine, and
        who counts the hits."""
        fields = dataclasses.asdict(self)
        fields["dataset"] = self.dataset and f"{self.dataset.name}@{self.dataset.digest}"
        fields["weights"] = f"{self.weights.source}@{self.weights.digest}"
        fields["size"] = self.size and list(self.size)
        del fields["keep"], fields["evaluator"]
        return fields

    @property
    def key(self) -> str:
        """The identity in twelve characters."""
        text = json.dumps(self.identity, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


class MissingError(RuntimeError):
    """Something that a measurement needs is not here: weights, a device, a package."""


@dataclass(frozen=True)
class Outcome:
    """What came of a cell: its `values`, or the `reason` why there are none.

    `status`: "measured"; "missing" (weights or a device that are not there), "failed" (an error),
    "out of memory", "crashed" (the interpreter ended) or "timed out".
    """

    status: str
    values: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    seconds: float = 0.0
