"""A ready detector by name: card -> weights file -> network, no tensor initialised in vain."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch

from fcos import Detector
from zoo import converted, formats
from zoo.available import fetch_address, fetch_weights, set_aside
from zoo.build import DTYPES, Precision, assemble
from zoo.card import Card, card
from zoo.formats import CheckpointError
from zoo.identify import looks_like
from zoo.weights import Location, WeightsError, read


def get(
    name: str,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    precision: Precision = "fp32",
) -> Detector:
    """A ready detector: published weights fetched and verified, eval mode.

    Args:
        name: an entry of the zoo.
        weights: a checkpoint instead: the published file, or one that training here wrote, whose
            classes the detector then has. A path, or an address (`hf://owner/repo/file`, `https://`)
            to fetch it from, once.
        device: where to put it; default the CPU.
        precision: "bf16" or "fp16" compute the network in that type; norms' statistics, box
            regression and decoding stay in fp32.

    Raises:
        UnknownEntryError, WeightsError, CheckpointError: each names what is wrong and what to do.
    """
    entry = card(name)
    if precision not in DTYPES:
        raise ValueError(f"precision {precision!r} is not one of {', '.join(DTYPES)}")
    if device is not None and torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {str(device)!r}: torch finds no GPU here; use device='cpu'")
    if weights is None:
        detector = _published(entry)
    elif isinstance(weights, str) and Location(weights).remote:
        detector = _from_address(entry, weights)
    else:
        detector = _from_file(entry, Path(weights))
    detector.eval().to(device=device, dtype=DTYPES[precision])
    return detector.to(memory_format=torch.channels_last)


def _published(entry: Card) -> Detector:
    """With the published weights, which the second time are mapped from their converted copy."""
    path = fetch_weights(entry)
    detector = _empty(entry, entry.config)
    if converted.load(detector, path):
        return detector
    try:
        _fill(detector, path, read(path))
    except (CheckpointError, WeightsError) as error:
        raise type(error)(
            f"{shorten(str(error), 600)}\n{path.name}: {set_aside(path)}. Another call fetches it "
            f"again; if that is no better, put the right file at {path}, or set FCOS_ZOO_MIRRORS "
            "to who serves it."
        ) from error
    converted.keep(detector, path)
    return detector


def _from_address(entry: Card, url: str) -> Detector:
    """With the weights of a file elsewhere; one that is damaged does not stay in the cache."""
    path = fetch_address(url)
    try:
        return _from_file(entry, path)
    except WeightsError as error:
        raise WeightsError(f"{url}: {error}\n{path.name}: {set_aside(path)}") from error


def _from_file(entry: Card, path: Path) -> Detector:
    """With the weights of a user's file, and its classes where it names them."""
    facts = converted.metadata(path)
    content = converted.in_order(read(path), facts)
    trained, classes = facts.get("entry"), converted.classes(facts)
    if "model" in content and "classes" in content:
        trained, classes = content.get("entry"), content["classes"]
    if trained not in (None, entry.name):
        raise CheckpointError(
            f"{path} holds a trained {trained}, whose boxes {entry.name} would not decode: "
            f"load it by zoo.get({trained!r}, weights=...)"
        )
    detector = _empty(entry, {**entry.config, "classes": classes or entry.config["classes"]})
    _fill(detector, path, content)
    return detector


def _empty(entry: Card, config: Mapping[str, Any]) -> Detector:
    """A detector whose tensors are still to come."""
    detector = assemble(config, empty=True)
    saved = detector.state_dict().keys()
    if any(buffer.is_meta and name not in saved for name, buffer in detector.named_buffers()):
        detector = assemble(config)  # holds computed constants that no checkpoint brings
    detector.card = entry
    return detector


def _fill(detector: Detector, path: Path, content: Mapping[str, Any]) -> None:
    """Load a checkpoint's content; the error says what the file is instead."""
    for part in (detector.backbone, detector.pyramid, detector.head):
        assert isinstance(part, torch.nn.Module)
        if any(tensor.is_meta for tensor in part.state_dict().values()):
            part.to_empty(device="cpu")
    for name, buffer in detector.named_buffers():
        if name.endswith(formats.COUNTER):  # the one tensor that a checkpoint may lack
            buffer.zero_()
    state = formats.unwrap(content)
    try:
        formats.load_state(detector, state)
    except CheckpointError as error:
        raise CheckpointError(
            f"{path} is not {detector.card.name}: {looks_like(state)}; {error}"
        ) from error
