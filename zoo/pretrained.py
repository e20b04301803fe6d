"""Detectors with weights: fetch the file, read it, translate its keys, and load it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal, get_args

import torch

from fcos import Detector
from fcos.inference import inference_layout
from fcos.preprocess import ResizeMethod
from zoo import cache, formats
from zoo.checkpoint import Checkpoint, describe, is_path, open_checkpoint, read_checkpoint
from zoo.config import build_detector
from zoo.exported import SUFFIXES as EXPORTED
from zoo.files import UnreadableError
from zoo.formats import CheckpointError
from zoo.formats.detectors import NATIVE, PUBLISHED
from zoo.registry import Card, UnknownEntryError, card, entry_of_file, fetch_weights
from zoo.sources import WeightsError

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def get(
    name: str,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    precision: Precision = "fp32",
    compile: bool = False,
    resize: ResizeMethod | None = None,
    winograd: bool = False,
) -> Detector:
    """Return a detector in eval mode, with published weights that are fetched and verified.

    Args:
        name: an entry of the zoo, or a file that training wrote, whose detector has the settings
            and classes that it was trained with.
        weights: another checkpoint than the published one: a file, or an address
            (`hf://owner/repo/file`, `https://...`) from which it is downloaded once.
        device: device of the detector; by default the CPU. On a GPU, convolutions round fp32 to
            TF32 unless `torch.backends.cudnn.allow_tf32` is set to False, as the commands do.
        precision: with "bf16" or "fp16" the network computes in that type; norms' statistics, box
            regression and decoding stay in fp32.
        compile: fuse norms into convolutions and compile the network. This gives the fastest
            detector, but the first image takes about a minute. See `Detector.fuse` and
            `compile_network`.
        resize: another resize method than the published one, see `resize_image`.
        winograd: make a detector in fp32 on a CPU faster, without a compiler; see
            `Detector.use_winograd`.

    Raises:
        UnknownEntryError, WeightsError, CheckpointError: the message says what is wrong and what to
            do.
    """
    if precision not in DTYPES:
        raise ValueError(f"precision {precision!r} is not one of {', '.join(DTYPES)}")
    if resize is not None and resize not in get_args(ResizeMethod):
        raise ValueError(f"resize {resize!r} is not one of {', '.join(get_args(ResizeMethod))}")
    try:
        device = torch.device("cpu" if device is None else device)
    except RuntimeError:  # whose message lists twenty kinds
        raise ValueError(f"device {device!r} is not one of cpu, cuda and cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {str(device)!r}: torch finds no GPU here; use device='cpu'")
    if device.type == "mps":
        raise ValueError("device 'mps' has no float64, which NMS needs; use device='cpu'")
    if winograd and (compile or precision != "fp32" or device.type != "cpu"):
        raise ValueError("winograd=True is for precision 'fp32' on a CPU, without compile=True")
    if is_path(name):
        if Path(name).suffix in EXPORTED:
            raise ValueError(f"{name} is an exported file: zoo.load({str(name)!r}) runs it")
        if weights is not None:
            raise ValueError(
                f"{name} has weights of its own: name an entry, or leave out {weights}"
            )
        detector = _load_path(Path(name))
    elif weights is not None:
        detector = _load_given(card(name), weights)
    else:
        detector = _load_published(card(name))
    detector.eval()
    if resize is not None:
        detector.resize_method = resize
    if compile:
        detector.fuse()
    if winograd:
        detector.use_winograd()
    dtype = DTYPES[precision]
    detector.to(device=device, dtype=dtype)
    detector.to(memory_format=inference_layout(device, dtype))
    return detector.compile_network() if compile else detector


def build(name: str, num_classes: int | None = None) -> Detector:
    """Build a freshly initialised detector with the architecture of an entry, without a download.

    Args:
        name: an entry of the zoo.
        num_classes: another number of classes than the entry's; they are then called "0", "1", ...
    """
    entry = card(name)
    detector = build_detector(entry.config, num_classes)
    detector.card = entry
    return detector


def load_checkpoint(detector: Detector, source: str | Path | Mapping[str, Any]) -> None:
    """Load published weights, or those that training wrote, into a detector, strictly.

    The detector is then in eval mode, and has the class names that the file states, if any. Call
    `detector.train()` to train it further.

    Args:
        source: a file, an address (`hf://owner/repo/file`, `https://`), or a mapping {key: tensor},
            in any published format; the format is recognised from the keys.

    Raises:
        WeightsError: the file cannot be fetched or read.
        CheckpointError: it is of another entry, was trained with another box decoding or
            normalisation, or does not fit: the message then lists every missing, unexpected and
            misshapen tensor. The detector is unchanged.
        ValueError: the detector is fused.
    """
    if detector.fused:
        raise ValueError("the detector is fused: load weights into it before `fuse()`")
    checkpoint = open_checkpoint(source)
    if detector.card:
        checkpoint.check_entry(detector.card)
    checkpoint.check_settings(detector.settings or {})
    formats.load_state(detector, checkpoint.state)
    if checkpoint.classes and len(checkpoint.classes) == len(detector.classes):
        detector.classes = tuple(checkpoint.classes)
        if detector.settings:
            detector.settings["classes"] = checkpoint.classes
    detector.eval()


def _load_published(entry: Card) -> Detector:
    path = fetch_weights(entry)
    detector = _empty(entry, entry.config)
    try:
        _fill(detector, read_checkpoint(path))
    except UnreadableError:
        raise
    except (CheckpointError, WeightsError) as error:
        # A file with another hash than the entry states would not have been accepted.
        if any(source.digest for source in entry.weights if not source.dead):
            advice = (
                f"{path} is the published file, by its SHA-256, but this version of the zoo "
                "cannot load it: take a newer one"
            )
        elif path.parent != cache.folder():
            raise  # a file of the user's
        else:
            advice = (
                f"{path.name}: {cache.quarantine(path)}. The next call downloads it again; if that "
                f"does not help, put the right file at {path}, or set FCOS_ZOO_MIRRORS to a host "
                "that serves it."
            )
        raise type(error)(f"{shorten(str(error), 600)}\n{advice}") from error
    return detector


def _load_given(entry: Card, source: str | Path) -> Detector:
    """Load an entry with a user's weights, and the settings that they state."""
    checkpoint = open_checkpoint(source)
    filename = Path(source).name
    other = None if checkpoint.entry or filename == entry.filename else entry_of_file(filename)
    if other not in (None, entry.name):
        raise CheckpointError(
            f"{filename} is the name of {other}'s weights, whose boxes {entry.name} would decode "
            f"wrongly: load the file by zoo.get({other!r}, weights=...), or rename it if it holds "
            "others"
        )
    checkpoint.check_entry(entry)
    return _load_trained(entry, checkpoint)


def _load_path(path: Path) -> Detector:
    """Load a file that training wrote, which states its entry."""
    checkpoint = read_checkpoint(path)
    if checkpoint.entry is None:
        raise CheckpointError(
            f"{path} does not state which entry it is: "
            f"load it by zoo.get(ENTRY, weights={str(path)!r})"
        )
    try:
        entry = card(checkpoint.entry)
    except UnknownEntryError:
        if checkpoint.config is None:
            raise
        entry = Card(checkpoint.entry, checkpoint.config.get("family", ""))
    return _load_trained(entry, checkpoint)


def _load_trained(entry: Card, checkpoint: Checkpoint) -> Detector:
    if checkpoint.config is not None:
        checkpoint.check_config()
    elif checkpoint.trained:  # by an earlier version
        warnings.warn(
            f"{checkpoint.name} does not hold the settings that it was trained with: those of "
            f"{entry.name} are assumed",
            stacklevel=4,
        )
    config = checkpoint.config or entry.config
    detector = _empty(entry, {**config, "classes": checkpoint.classes or config.get("classes")})
    _fill(detector, checkpoint)
    return detector


def _empty(entry: Card, config: Mapping[str, Any]) -> Detector:
    """Build a detector whose tensors are not initialised, since they will be loaded."""
    detector = build_detector(config, empty=True)
    saved = detector.state_dict().keys()
    if any(buffer.is_meta and name not in saved for name, buffer in detector.named_buffers()):
        detector = build_detector(config)  # some constants are computed, and are in no checkpoint
    # Whatever torch's default type is; and the faster layout, while that needs no copy.
    detector.to(dtype=torch.float32).to(memory_format=torch.channels_last)
    for part in (detector.backbone, detector.pyramid, detector.head):
        assert isinstance(part, torch.nn.Module)
        if any(tensor.is_meta for tensor in part.state_dict().values()):
            part.to_empty(device="cpu")
    for name, buffer in detector.named_buffers():
        if name.endswith(formats.COUNTER):  # the one tensor that a checkpoint may lack
            buffer.zero_()
    detector.card = entry
    return detector


def _fill(detector: Detector, checkpoint: Checkpoint) -> None:
    """Load a checkpoint in the entry's format; errors say what it is instead."""
    entry, state = detector.card, checkpoint.state
    problem = f"{checkpoint.name} is not {entry.name}"
    try:
        form = formats.recognise(state)
    except CheckpointError as error:
        raise CheckpointError(f"{problem}: {error}") from None
    if form not in (NATIVE, PUBLISHED.get(entry.family)):
        raise CheckpointError(f"{problem}: {describe(state)}")
    try:
        formats.load_state(detector, state)
    except CheckpointError as error:
        raise CheckpointError(f"{problem}: {describe(state, entry)}; {error}") from error
