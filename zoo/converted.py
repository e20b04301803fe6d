"""The second load is a memory-mapped read: an entry's tensors under our keys, as safetensors.

`ENTRY.converted.safetensors` lies in the cache beside the published file that it was made from and
says so in its metadata; one that is stale or damaged is ignored and written anew.
"""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from fcos import Detector
from zoo.weights import Location, cache

VERSION = "1"  # of the keys and of what they mean: a change makes older files stale
SUFFIX = ".converted.safetensors"


def load(detector: Detector, source: Path) -> bool:
    """Put the tensors converted from `source` into a detector; False where there are none.

    They replace the detector's own, which may be on the meta device, and are read from the file
    when they are first used; the file itself never changes when they do.
    """
    path = _place(detector, source)
    try:
        if not cache.whole(path, [Location(str(path), sha256="")]):
            return False
        with safe_open(path, "pt") as file:
            if file.metadata() != _facts(detector, source):
                return False
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        detector.load_state_dict(state, assign=True)
    except (OSError, SafetensorError, RuntimeError):
        return False
    return True


def keep(detector: Detector, source: Path) -> None:
    """Write down the tensors that a detector got from `source`, for the next load.

    That spares time and nothing else, so a cache that cannot be written is no error.
    """
    path = _place(detector, source)
    part = cache.beside(path, ".part")
    with (
        suppress(OSError, SafetensorError, Timeout),
        FileLock(path.with_name(f".{path.name}.lock"), timeout=0),
    ):
        try:
            write(detector, part, _facts(detector, source))
            shutil.copymode(source, part)  # whoever may read the one may read the other
            cache.commit(part, path)
        finally:
            part.unlink(missing_ok=True)


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


def classes(facts: dict[str, str]) -> list[str] | None:
    """The class names in a file's metadata."""
    return json.loads(facts["classes"]) if "fcos_zoo" in facts else None


def _facts(detector: Detector, source: Path) -> dict[str, str]:
    digest = cache.recorded(source) or cache.sha256(source)
    return {**describe(detector), "source_sha256": digest}


def _place(detector: Detector, source: Path) -> Path:
    return source.with_name(detector.card.name + SUFFIX)
