"""A benchmark case, which is one measurement to make, and its result."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# In the order in which they are measured and shown.
METRICS = (
    *("params", "flops", "training_memory", "latency", "throughput", "memory", "energy"),
    *("ap", "robustness"),
)
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
# Metrics that other load on the machine does not affect: those of one entry share a process.
STATIC = frozenset({"params", "flops", "training_memory"})
REFINED = "instances_valrem.json"  # COCO-ReM's annotations of val2017
ACCURACY = frozenset({"ap", "robustness"})  # needs trained weights
TIMED = frozenset({"latency", "throughput"})


@dataclass(frozen=True)
class Weights:
    """The weights that a detector is measured with.

    `source` is "published", "file" (given by the user), "baseline" (loaded by the adapter) or
    "random". `path` and `digest` (the first digits of the SHA-256) describe a file; `note` says why
    the weights are random.
    """

    source: str = "random"
    path: str | None = None
    digest: str = ""
    note: str = ""


@dataclass(frozen=True)
class Dataset:
    """A COCO-format dataset.

    `digest` is that of the annotation file, so that a case does not depend on where the files are.
    `refined` is the file of COCO-ReM's annotations if it lies beside that, else "".
    """

    annotations: str
    images: str
    name: str
    digest: str
    refined: str = ""

    @classmethod
    def of(cls, annotations: str | Path, images: str | Path) -> Dataset:
        """Return the dataset of an annotation file and the folder of its images.

        Raises:
            FileNotFoundError: either does not exist.
        """
        path = Path(annotations)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such annotation file")
        if not Path(images).is_dir():
            raise FileNotFoundError(f"{images}: no such image folder")
        name = path.parent.name if path.stem == "annotations" else path.stem
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        refined = path.resolve().with_name(REFINED)
        places = str(path.resolve()), str(Path(images).resolve())
        beside = str(refined) if refined.is_file() and refined != path.resolve() else ""
        return cls(*places, name, digest, beside)


@dataclass(frozen=True)
class TimingBudget:
    """How long to time in each process.

    Whole rounds over the images are timed until there are at least `min_rounds` of them,
    `min_runs` runs and `min_seconds`; no round begins after `max_seconds`.
    """

    min_rounds: int = 1
    min_runs: int = 15
    min_seconds: float = 5.0
    max_seconds: float = 60.0


@dataclass(frozen=True)
class Case:
    """One measurement to make. A setting that does not affect the metric is left at its default.

    Args:
        entry: a name of the zoo, "module:function" of a baseline (see `benchmarks.baselines`), or a
            file that training or `fcos-zoo export` wrote.
        metric: one of `METRICS`.
        device: "cpu", "cuda", "cuda:1" and so on.
        precision: one of `PRECISIONS`, or that of an exported file.
        batch: images per batch.
        size: (shortest, longest) side instead of the entry's published test size.
        threads: CPU threads, or None for torch's default.
        compiled: run the network through `torch.compile`.
        winograd: compute 3x3 convolutions by Winograd's algorithm, see `Detector.use_winograd`.
        layout: memory format of weights and inputs, "channels_last" or "contiguous".
        dataset, limit: the dataset, and how many of its first images to use (None for all).
        timing: how long to time, for the timed metrics.
        weights: the weights to load.
        detections_dir: folder in which detections are kept, as `<key>.json`.
        evaluator: computes AP; one of `fcos.coco_eval.BACKENDS`, whose results are equal.
        runtime: the software that runs an exported file, with its version; "" for PyTorch.
    """

    entry: str
    metric: str
    device: str = "cpu"
    precision: str = "fp32"
    batch: int = 1
    size: tuple[int, int] | None = None
    threads: int | None = None
    compiled: bool = False
    winograd: bool = False
    layout: str = "channels_last"
    dataset: Dataset | None = None
    limit: int | None = None
    timing: TimingBudget = field(default_factory=TimingBudget)
    weights: Weights = field(default_factory=Weights)
    detections_dir: str | None = None
    evaluator: str = "pycocotools"
    runtime: str = ""

    @property
    def identity(self) -> dict[str, Any]:
        """Return the settings that identify this measurement, as results files store them.

        They do not include paths on this machine, nor the evaluator.
        """
        return {
            "entry": self.entry,
            "metric": self.metric,
            "device": self.device,
            "precision": self.precision,
            "batch": self.batch,
            "size": self.size and list(self.size),
            "threads": self.threads,
            "compiled": self.compiled,
            "layout": self.layout,
            "dataset": self.dataset and f"{self.dataset.name}@{self.dataset.digest}",
            "limit": self.limit,
            # The names that results files have used from the beginning.
            "pace": dict(
                zip(
                    ("rounds", "runs", "seconds", "limit"),
                    dataclasses.astuple(self.timing),
                    strict=True,
                )
            ),
            "weights": f"{self.weights.source}@{self.weights.digest}",
            # Only if it differs from the implicit value of older results files.
            **({"winograd": True} if self.winograd else {}),
            **({"runtime": self.runtime} if self.runtime else {}),
        }

    @property
    def key(self) -> str:
        """Return twelve characters that identify the case in results files."""
        text = json.dumps(self.identity, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


class MissingError(RuntimeError):
    """Weights, a device or a package that a measurement needs is not available."""


@dataclass(frozen=True)
class Result:
    """The result of a case: its `values`, or the `reason` for which there are none.

    `status`: "measured"; "missing" (weights or a device are not available), "failed" (an
    exception), "out of memory", "crashed" (the interpreter ended) or "timed out".
    `seconds`: the duration, including the start of the process.
    """

    status: str
    values: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    seconds: float = 0.0
