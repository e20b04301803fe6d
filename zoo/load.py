"""A ready detector by name: card -> weights file -> network, no tensor initialised in vain."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any, get_args

import torch

from fcos import Detector
from fcos.inference import inference_layout
from fcos.preprocess import ResizeMethod
from zoo import cache, converted, formats
from zoo.available import fetch_weights
from zoo.build import DTYPES, Precision, assemble
from zoo.card import Card, card, owner
from zoo.checkpoint import Checkpoint, open_checkpoint, read_checkpoint
from zoo.files import UnreadableError
from zoo.formats import CheckpointError
from zoo.identify import LINEAGE, looks_like
from zoo.sources import WeightsError


def get(
    name: str,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    precision: Precision = "fp32",
    compile: bool = False,
    resize: ResizeMethod | None = None,
) -> Detector:
    """A ready detector: published weights fetched and verified, eval mode.

    Args:
        name: an entry of the zoo.
        weights: a checkpoint instead: the published file, or one that training here wrote, whose
            classes the detector then has. A path, or an address (`hf://owner/repo/file`, `https://`)
            to fetch it from, once.
        device: where to put it; default the CPU. On a GPU, fp32 is rounded to TF32 in convolutions
            unless `torch.backends.cudnn.allow_tf32` is set to False, as the commands do.
        precision: "bf16" or "fp16" compute the network in that type; norms' statistics, box
            regression and decoding stay in fp32.
        compile: fuse norms into convolutions and compile the network: the fastest detector, at the
            price of a minute before its first image. See `Detector.fuse` and `compile_network`.
        resize: another method than the published one, see `resize_image`; "antialias" resizes on
            the detector's device, which spares the CPU and changes scores a little.

    Raises:
        UnknownEntryError, WeightsError, CheckpointError: each names what is wrong and what to do.
    """
    entry = card(name)
    if precision not in DTYPES:
        raise ValueError(f"precision {precision!r} is not one of {', '.join(DTYPES)}")
    if resize is not None and resize not in get_args(ResizeMethod):
        raise ValueError(f"resize {resize!r} is not one of {', '.join(get_args(ResizeMethod))}")
    if device is not None and torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {str(device)!r}: torch finds no GPU here; use device='cpu'")
    if device is not None and torch.device(device).type == "mps":
        raise ValueError("device 'mps' has no float64, which NMS needs; use device='cpu'")
    detector = _published(entry) if weights is None else _given(entry, weights)
    detector.eval()
    if resize is not None:
        detector.resize_method = resize
    if compile:
        detector.fuse()
    dtype = DTYPES[precision]
    detector.to(device=device, dtype=dtype)
    detector.to(memory_format=inference_layout(device or "cpu", dtype))
    return detector.compile_network() if compile else detector


def _published(entry: Card) -> Detector:
    """With the published weights, which the second time are mapped from their converted copy."""
    path = fetch_weights(entry)
    detector = _empty(entry, entry.config)
    if converted.load(detector, path):
        return detector
    try:
        _fill(detector, read_checkpoint(path))
    except UnreadableError:
        raise
    except (CheckpointError, WeightsError) as error:
        if _authentic(entry, path):
            raise type(error)(
                f"{shorten(str(error), 600)}\n{path} is the published file, by its SHA-256, but "
                "this version of the zoo cannot load it: take a newer one"
            ) from error
        raise type(error)(
            f"{shorten(str(error), 600)}\n{path.name}: {cache.quarantine(path)}. The next call "
            f"downloads it again; if that does not help, put the right file at {path}, or set "
            "FCOS_ZOO_MIRRORS to a host that serves it."
        ) from error
    converted.keep(detector, path)
    return detector


def _authentic(entry: Card, path: Path) -> bool:
    """Whether the file has a hash that the card states."""
    size, digest = path.stat().st_size, cache.sha256(path)
    return any(place.digest and place.matches(size, digest) for place in entry.weights)


def _given(entry: Card, source: str | Path) -> Detector:
    """With the weights of a user's file or address, and its classes where it names them."""
    checkpoint = open_checkpoint(source)
    filename = Path(source).name
    other = None if checkpoint.entry or filename == entry.filename else owner(filename)
    if other not in (None, entry.name):
        raise CheckpointError(
            f"{filename} is the name of {other}'s weights, whose boxes {entry.name} would not "
            f"decode: load the file by zoo.get({other!r}, weights=...), or rename it if it holds "
            "others"
        )
    classes = checkpoint.classes or entry.config["classes"]
    detector = _empty(entry, {**entry.config, "classes": classes})
    _fill(detector, checkpoint)
    return detector


def _empty(entry: Card, config: Mapping[str, Any]) -> Detector:
    """A detector whose tensors are still to come."""
    detector = assemble(config, empty=True)
    saved = detector.state_dict().keys()
    if any(buffer.is_meta and name not in saved for name, buffer in detector.named_buffers()):
        detector = assemble(config)  # holds computed constants that no checkpoint brings
    detector.card = entry
    return detector


def _fill(detector: Detector, checkpoint: Checkpoint) -> None:
    """Load a checkpoint of the entry's own lineage; the error says what it is instead."""
    checkpoint.check_entry(detector.card)
    for part in (detector.backbone, detector.pyramid, detector.head):
        assert isinstance(part, torch.nn.Module)
        if any(tensor.is_meta for tensor in part.state_dict().values()):
            part.to_empty(device="cpu")
    for name, buffer in detector.named_buffers():
        if name.endswith(formats.COUNTER):  # the one tensor that a checkpoint may lack
            buffer.zero_()
    entry, state = detector.card, checkpoint.state
    try:
        form = formats.recognise(state)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.name} is not {entry.name}: {error}") from None
    if form not in (formats.native, LINEAGE.get(entry.family)):
        raise CheckpointError(f"{checkpoint.name} is not {entry.name}: {looks_like(state)}")
    try:
        formats.load_state(detector, state)
    except CheckpointError as error:
        raise CheckpointError(
            f"{checkpoint.name} is not {entry.name}: {looks_like(state, entry)}; {error}"
        ) from error
