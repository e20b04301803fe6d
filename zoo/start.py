"""The weights that training starts from: ImageNet's, another detector's, or random ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fcos import Detector
from zoo import formats
from zoo.available import fetch_weights
from zoo.build import assemble
from zoo.card import card
from zoo.checkpoint import file_of, read_checkpoint
from zoo.imagenet import load_backbone

Config = Mapping[str, Any]


def start(detector: Detector, config: Config) -> str:
    """Give the detector the weights that training starts from; says which."""
    run = config["run"]
    if run["weights"]:
        return start_from(detector, run["weights"], config)
    if not run["backbone"]:
        return "started from random weights"
    load_backbone(detector, run["backbone"])
    which = config.get("imagenet") if run["backbone"] == "imagenet" else run["backbone"]
    return f"started the backbone from {which}, all else from random weights"


def start_from(detector: Detector, source: str, config: Config) -> str:
    """Copy the weights of an entry, a file or an address.

    Of a class predictor for other classes, only what predicts those of the same name is copied.

    Returns:
        What was done, for the log.
    """
    file = Path(source)
    given = file.name != source or bool(file.suffix) or file.is_file()  # no entry is called so
    path = file_of(source) if given else fetch_weights(card(source))
    checkpoint = read_checkpoint(path)
    state = checkpoint.state
    names = formats.translate(state, detector)
    head = [key for key, name in names.items() if name == "head.cls_logits.bias"]
    if not head:
        raise ValueError(
            f"{path} has no class predictor: it is no checkpoint of {config['family']}"
        )
    rows = len(state[head[0]])
    donor = assemble(config, rows)
    formats.load_state(donor, state)
    usual = config["classes"] if given else card(source).config["classes"]
    known = checkpoint.classes or usual
    known = tuple(known) if len(known) == rows else (None,) * rows  # names that nobody told
    kept = donor.state_dict()
    if known == detector.classes:
        detector.load_state_dict(kept)
        return f"started from {path}: all {len(kept)} tensors, the classes are the same"
    own = {k: v for k, v in detector.state_dict().items() if k.startswith("head.cls_logits.")}
    shared = [name for name in detector.classes if name in known]
    ours, theirs = ([of.index(name) for name in shared] for of in (detector.classes, known))
    for key, tensor in own.items():
        tensor[ours] = kept[key].to(tensor)[theirs]
    detector.load_state_dict({**kept, **own})
    return (
        f"started from {path}: {len(kept) - len(own)} tensors kept; the class predictor is "
        f"initialised anew, from {len(known)} to {len(detector.classes)} classes"
        + (f", except for the {len(shared)} of the same name" if shared else "")
    )
