"""The workload of a case: a detector with its settings and weights, and its images."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

import zoo
from benchmarks import baselines, random_weights
from benchmarks.cases import Case, MissingError, Weights
from benchmarks.dataset import read_images
from fcos import Detector
from fcos.preprocess import LongestSide, ShortestSide
from zoo.cache import recorded, sha256
from zoo.exported import SUFFIXES, ExportedDetector
from zoo.pretrained import DTYPES
from zoo.registry import fetch_weights

Stage = Callable[[Any], Any]
Boxes = list[dict[str, Tensor]]
COUNTED_BATCHES = 8  # number of batches whose candidates and detections are counted


def kind(entry: str) -> Literal["entry", "trained", "exported", "baseline"]:
    """Return the kind of an entry: of the zoo, a trained or exported file, or a baseline."""
    suffix = Path(entry).suffix
    if suffix in (".pth", ".pt", ".safetensors"):
        return "trained"
    if suffix in SUFFIXES:
        return "exported"
    return "baseline" if ":" in entry else "entry"


def architecture(entry: str) -> Detector:
    """Build the detector of a case in eval mode, with any weights."""
    return zoo.get(entry) if kind(entry) == "trained" else zoo.build(entry).eval()


def configure_process(case: Case) -> None:
    """Set the threads, the GPU and TF32 of this process for a case."""
    if case.threads:
        torch.set_num_threads(case.threads)
    if case.device.startswith("cuda"):  # clock and memory are those of the current GPU
        torch.cuda.set_device(torch.device(case.device).index or 0)
    tf32 = case.precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32


def build_detector(case: Case, images: Sequence[Tensor]) -> Detector:
    """Build the detector of a case in eval mode, on its device, with its weights and precision.

    Args:
        case: the settings.
        images: (3, H, W) uint8; random weights are calibrated on the first one.
    """
    if kind(case.entry) == "trained":
        detector = zoo.get(case.entry)
    elif case.weights.path is not None:
        detector = zoo.get(case.entry, case.weights.path)
    else:
        detector = zoo.build(case.entry).eval().to(case.device)
    detector.resize = with_size(detector.resize, case.size)
    if case.weights.path is None:
        random_weights.randomize(detector, images[:1])
    detector = detector.use_winograd() if case.winograd else detector.fuse()
    detector.to(device=case.device, dtype=DTYPES.get(case.precision, torch.float32))
    layouts = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
    return detector.to(memory_format=layouts[case.layout])


def load_exported(case: Case) -> ExportedDetector:
    """Load the exported file of a case, with as many threads as this process has.

    Raises:
        MissingError: the case asks for another size, and the size is part of the file.
    """
    file = zoo.load(case.entry)
    if case.size and (file.size or file.preprocessing):
        raise MissingError("its size is part of the file: export it without --size")
    file.resize = with_size(file.resize, case.size)
    return file


def with_size(
    rule: ShortestSide | LongestSide, size: tuple[int, int] | None
) -> ShortestSide | LongestSide:
    """Return the test-time resize with another (shortest, longest) side; unchanged for None."""
    if size is None:
        return rule
    if isinstance(rule, LongestSide):
        return dataclasses.replace(rule, size=size[1])
    return dataclasses.replace(rule, size=size[0], longest=size[1])


def stages(detector: Detector, compiled: bool = False) -> dict[str, Stage]:
    """Return `Detector.detect` in three stages, each of which takes the output of the one before.

    preprocess: (3, H, W) uint8 images on the host -> a resized, normalised, padded batch on the
    device; network: -> the head's raw outputs; decode: -> boxes in pixels of the images.
    """
    if compiled:
        detector.compile_network()

    def run_network(prepared: Any) -> Any:
        return detector.network(prepared[0]), prepared

    def decode(outputs: Any) -> Boxes:
        levels, prepared = outputs
        batch, originals, scales = prepared
        candidates = detector.candidates(levels, batch)
        return detector.decoder.detections(candidates, originals, scales)

    return {"preprocess": detector.prepare, "network": run_network, "decode": decode}


@dataclass
class Workload:
    """The stages of a detector and the image batches to run them on.

    `images` is the number of distinct images. `weights` is "published", "file", "random" or the
    adapter's description. `detector` is None for a baseline or an exported file.
    """

    stages: dict[str, Stage]
    batches: list[list[Tensor]]
    images: int
    weights: str
    detector: Detector | None

    def count_candidates(self) -> dict[str, float | None]:
        """Return the work of decoding per image: detections, and (location, class) pairs above the
        score threshold, which are only known for a `Detector`."""
        batches = self.batches[:COUNTED_BATCHES]
        images = sum(map(len, batches))
        candidates = detections = 0
        for batch in batches:
            item: Any = batch
            for name, stage in self.stages.items():
                item = stage(item)
                if name == "network" and self.detector is not None:
                    threshold = self.detector.decoder.score_threshold
                    candidates += sum(
                        int((level.logits.sigmoid() > threshold).sum()) for level in item[0]
                    )
            detections += sum(len(boxes["boxes"]) for boxes in item)
        return {
            "candidates": candidates / images if self.detector is not None else None,
            "detections": detections / images,
        }


def load_workload(case: Case) -> Workload:
    """Load everything that a timed case needs, including decoded images."""
    assert case.dataset is not None
    images = read_images(case.dataset, case.limit)
    batches = batch_images(images, case.batch)
    if kind(case.entry) == "baseline":
        baseline: Any = baselines.load(case.entry, case.device, case.precision, case.size)
        weights = getattr(baseline, "weights", "given by the adapter")
        return Workload({"detect": baseline}, batches, len(images), weights, None)
    if kind(case.entry) == "exported":
        find = load_exported(case).find
        return Workload({"detect": find}, batches, len(images), case.weights.source, None)
    detector = build_detector(case, images)
    return Workload(
        stages(detector, case.compiled), batches, len(images), case.weights.source, detector
    )


def batch_images(images: Sequence[Tensor], size: int) -> list[list[Tensor]]:
    """Make batches of `size` images of similar aspect ratio.

    An incomplete last batch is filled with the first images.
    """
    if size == 1:
        return [[image] for image in images]
    ordered = sorted(images, key=lambda image: image.shape[-2] / image.shape[-1])
    count = -(-len(ordered) // size)
    repeated = list(itertools.islice(itertools.cycle(ordered), count * size))
    return [repeated[i * size : (i + 1) * size] for i in range(count)]


def resolve_weights(
    entry: str,
    files: Mapping[str, Path] | None = None,
    folder: Path | None = None,
    cached_only: bool = False,
) -> Weights:
    """Find the weights of a zoo entry: in `files`, in `folder`, or as published.

    Args:
        entry: the entry's name.
        files: checkpoints by entry.
        folder: a folder of files with their published names, or `<entry>.pth`.
        cached_only: use published weights only if they are in the cache.

    Returns:
        Weights of source "published" or "file", or of source "random" with the reason as `note`.
    """
    if kind(entry) != "entry":
        return _file(Path(entry))
    card = zoo.card(entry)
    if files and entry in files:
        return _file(files[entry])
    if folder is not None:
        for name in (card.filename, f"{entry}.pth"):
            if name and (folder / name).is_file():
                return _file(folder / name)
    try:
        path = fetch_weights(card, cached_only=cached_only)
    except zoo.NoWeightsError as error:
        return Weights(note=error.reason)
    except zoo.WeightsError as error:
        return Weights(note=_why(str(error), cached_only))
    return Weights("published", str(path), (recorded(path) or sha256(path))[:12])


def _file(path: Path) -> Weights:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weights file")
    digest = sha256(path)[:12]
    if path.suffix == ".xml":  # of OpenVINO, whose weights are in another file
        digest = digest[:6] + sha256(path.with_suffix(".bin"))[:6]
    return Weights("file", str(path.resolve()), digest)


def _why(message: str, cached_only: bool) -> str:
    """Return the reason in one line: the error lists all attempts, the best source first."""
    if cached_only:
        return "published weights not in the cache (`fcos-zoo download` fetches them)"
    lines = [line.strip() for line in message.splitlines()]
    return f"published weights unreachable ({lines[1]})" if len(lines) > 1 else lines[0]
