"""From a card to a detector: configs -> modules, and tensors into them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from hydra.utils import instantiate

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
from zoo.card import card
from zoo.checkpoint import open_checkpoint

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


def assemble(
    config: Mapping[str, Any], num_classes: int | None = None, empty: bool = False
) -> Detector:
    """A detector from an entry's configuration.

    Args:
        config: the entry's.
        num_classes: see `build`.
        empty: the network's tensors have shapes but neither memory nor values (torch's meta
            device), which spares their initialisation where others take their place.
    """
    classes = config["classes"]
    if num_classes is not None and num_classes != len(classes):
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, not {num_classes}")
        classes = [str(label) for label in range(num_classes)]
    with torch.device("meta") if empty else nullcontext():
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
        normalizer=ImageNormalizer(**config["images"]),
        resize=resize(**rule),
        assigner=TargetAssigner(**config["assigner"]),
        loss=Loss(**config["loss"]),
        decoder=Decoder(**config["decoder"]),
        classes=classes,
        **config.get("detector", {}),
    )


def load_checkpoint(detector: Detector, source: str | Path | Mapping[str, Any]) -> None:
    """Load published weights, or those that training here wrote, into a detector, strictly.

    The detector is then in eval mode, ready to detect; `detector.train()` goes on training it.

    Args:
        source: a file, an address (`hf://owner/repo/file`, `https://`), or a mapping {key: tensor},
            in any published format; the format is recognised from the keys.

    Raises:
        WeightsError: the file cannot be had or read.
        CheckpointError: it is of another entry, or lists every missing, unexpected and misshapen
            tensor; the detector is then as it was.
        ValueError: the detector is fused.
    """
    if detector.fused:
        raise ValueError("the detector is fused: load weights into it before `fuse()`")
    checkpoint = open_checkpoint(source)
    if detector.card:
        checkpoint.check_entry(detector.card)
    formats.load_state(detector, checkpoint.state)
    detector.eval()


def _instantiate(config: Mapping[str, Any], **arguments: Any) -> Any:
    return instantiate(config, _convert_="all", **arguments)
