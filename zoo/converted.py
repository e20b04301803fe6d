"""The second load is a memory-mapped read: an entry's tensors under our keys, as safetensors.

`ENTRY.converted.safetensors` lies in the cache beside the published file that it was made from and
says so in its metadata. A stale or damaged copy is ignored and written again. The weights of
convolutions are stored in channels-last order, in which a detector computes, so that no tensor is
copied.
"""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from textwrap import shorten
from typing import Any

from filelock import Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fcos import Detector
from zoo import cache
from zoo.formats import CheckpointError
from zoo.sources import FileSource

VERSION = "1"  # of the keys and of what they mean: a change makes older files stale
SUFFIX = ".converted.safetensors"
LAYOUT = "channels last"


def load(detector: Detector, source: Path) -> bool:
    """Put the tensors converted from `source` into a detector; False where there are none.

    They replace the detector's own, which may be on the meta device, and are read from the file
    when they are first used; the file itself never changes when they do.
    """
    path = _place(detector, source)
    try:
        facts = _facts(detector, source)
        if not cache.is_valid(path, [FileSource(str(path), sha256="")]):
            return False
        with safe_open(path, "pt") as file:
            if file.metadata() != facts:
                return False
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        state = in_order(state, facts)
        detector.load_state_dict(state, assign=True)
    except (OSError, SafetensorError, RuntimeError):
        return False
    return True


def keep(detector: Detector, source: Path) -> None:
    """Write down the tensors that a detector got from `source`, for the next load.

    That spares time and nothing else, so a cache that cannot be written is not an error.
    """
    path = _place(detector, source)
    part = cache.sidecar(path, ".part")
    with (
        suppress(OSError, SafetensorError, Timeout),
        cache.lock(path).acquire(timeout=0),
    ):
        try:
            state = {key: _channels_last(value) for key, value in detector.state_dict().items()}
            save_file(state, part, metadata=_facts(detector, source))
            shutil.copymode(source, part)  # whoever may read the one may read the other
            cache.commit(part, path)
        finally:
            part.unlink(missing_ok=True)


def in_order(state: dict[str, Any], facts: dict[str, str]) -> dict[str, Any]:
    """The tensors of a file, viewed in their usual order if it has them in another."""
    if facts.get("layout") != LAYOUT:
        return state
    return {key: t.permute(0, 3, 1, 2) if t.dim() == 4 else t for key, t in state.items()}


def write(detector: Detector, path: Path, facts: dict[str, str]) -> None:
    """The detector's state as a safetensors file with `facts` in its header."""
    state = {key: value.contiguous() for key, value in detector.state_dict().items()}
    save_file(state, path, metadata=facts)


def describe(detector: Detector) -> dict[str, str]:
    """What a file of this detector says of itself."""
    return {
        "format": "pt",
        "fcos_zoo": VERSION,
        "entry": detector.card.name,
        "classes": json.dumps(detector.classes),
    }


def metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says of itself; nothing of a file of another kind."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError):
        return {}


def classes(facts: dict[str, str]) -> Any:
    """What a file's metadata gives as its class names, to be `checked`; None if nothing."""
    if "fcos_zoo" not in facts or "classes" not in facts:
        return None
    try:
        return json.loads(facts["classes"])
    except json.JSONDecodeError:
        return facts["classes"]


def settings(facts: dict[str, str]) -> Any:
    """What a file's metadata gives as the configuration of its detector; None if nothing."""
    try:
        return json.loads(facts["config"])
    except (KeyError, json.JSONDecodeError):
        return None


def checked(classes: Any) -> list[str]:
    """What a file gives as its class names; CheckpointError if they are none."""
    if not isinstance(classes, list | tuple) or not all(isinstance(c, str) for c in classes):
        raise CheckpointError(
            f'its "classes" are not a list of names but {shorten(repr(classes), 80)}: '
            "write the names there, or leave them out"
        )
    return list(classes)


def _facts(detector: Detector, source: Path) -> dict[str, str]:
    source_sha256 = cache.known_sha256(source)
    return {**describe(detector), "source_sha256": source_sha256, "layout": LAYOUT}


def _channels_last(tensor: Tensor) -> Tensor:
    return (tensor.permute(0, 2, 3, 1) if tensor.dim() == 4 else tensor).contiguous()


def _place(detector: Detector, source: Path) -> Path:
    return source.with_name(detector.card.name + SUFFIX)
