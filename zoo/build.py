"""From a card to a detector: configs -> modules, and the published weights into them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from hydra.utils import instantiate
from torch import Tensor

from fcos import (
    Decoder,
    Detector,
    Head,
    ImageNormalizer,
    LongestSide,
    Loss,
    ShortestSide,
    TargetAssigner,
)
from zoo import formats
from zoo.card import Card, card
from zoo.weights import fetch, read

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def build(name: str, num_classes: int | None = None) -> Detector:
    """The architecture of an entry, freshly initialised: no download.

    Args:
        name: an entry of the zoo.
        num_classes: other than the entry's own; its classes are then called "0", "1", ...
    """
    entry = card(name)
    detector = assemble(entry.config, num_classes)
    detector.card = entry
    return detector


def assemble(config: Mapping[str, Any], num_classes: int | None = None) -> Detector:
    """A detector from an entry's configuration."""
    classes = config["classes"]
    if num_classes is not None and num_classes != len(classes):
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, not {num_classes}")
        classes = [str(label) for label in range(num_classes)]
    backbone = _instantiate(config["backbone"])
    pyramid = _instantiate(
        config["pyramid"], in_channels=backbone.channels, in_strides=backbone.strides
    )
    head = Head(pyramid.strides, len(classes), pyramid.channels, **config["head"])
    resize = {"shortest": ShortestSide, "longest": LongestSide}[config["resize"]["side"]]
    rule = {key: value for key, value in config["resize"].items() if key != "side"}
    return Detector(
        backbone,
        pyramid,
        head,
        images=ImageNormalizer(**config["images"]),
        resize=resize(**rule),
        assigner=TargetAssigner(**config["assigner"]),
        loss=Loss(**config["loss"]),
        decoder=Decoder(**config["decoder"]),
        classes=classes,
        **config.get("detector", {}),
    )


def get(
    name: str,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    precision: Precision = "fp32",
) -> Detector:
    """A ready detector: published weights fetched and verified, eval mode.

    Args:
        name: an entry of the zoo.
        weights: a checkpoint on disk instead: the published file, or one that training here wrote.
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
    path = Path(weights) if weights is not None else fetch_weights(entry)
    detector = build(name)
    load_checkpoint(detector, path)
    detector.eval().to(device=device, dtype=DTYPES[precision])
    return detector.to(memory_format=torch.channels_last)


def fetch_weights(entry: Card) -> Path:
    """The entry's published checkpoint in the cache, downloaded if need be."""
    if entry.filename is None:
        raise LookupError(
            f"no weights were ever published for {entry.name}: train it with "
            f"`fcos-zoo train {entry.name}` or pass weights="
        )
    return fetch(entry.filename, entry.weights)


def load_checkpoint(detector: Detector, source: str | Path | Mapping[str, Any]) -> None:
    """Load published weights into a detector, strictly.

    Args:
        source: a file, or a mapping {key: tensor}, in any published format; the format is
            recognised from the keys.

    Raises:
        CheckpointError: lists every missing, unexpected and misshapen tensor; the detector is then
            as it was.
    """
    content: Any = source if isinstance(source, Mapping) else read(Path(source))
    state: dict[str, Tensor] = formats.unwrap(content)
    formats.load_state(detector, state)


def _instantiate(config: Mapping[str, Any], **arguments: Any) -> Any:
    return instantiate(config, _convert_="all", **arguments)
