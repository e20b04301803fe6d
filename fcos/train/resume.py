"""One process group writes a run's folder, and goes on only from checkpoints of the same run."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from fcos.data.dataset import DetectionDataset
from fcos.train import distributed

# What a checkpoint of training holds.
KEYS = {"iteration", "epoch", "random", "skipped", "model", "average", "optimizer", "scaler"}
# Sections and settings that cannot change within a run; rates, intervals and paths can.
FIXED = (
    *("backbone", "pyramid", "head", "images", "resize", "assigner", "loss", "decoder", "detector"),
    *("augmentation", "data.plus_one", "data.whole_pixels", "data.keep_empty", "data.flip"),
    *("data.aspect_ratio_group_size", "data.split", "freeze", "run.seed"),
)
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Hold a run's folder; the lock ends with the process, however that ends.

    Raises:
        OSError: on all ranks: another run holds it, or nothing can be written there. Later, in the
            block: the disk is full or read-only; the error names the folder.
    """
    lock = FileLock(folder / "run.lock")
    error: OSError | None = None
    if distributed.rank() == 0:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            error = FileExistsError(
                f"another process is training in {folder}: wait for it, or choose another "
                "run.folder"
            )
        except OSError as reason:
            error = OSError(f"{folder} cannot be written ({reason}): choose another run.folder")
    error = distributed.broadcast(error)
    if error is not None:
        raise error
    try:
        yield
    except OSError as reason:
        if reason.errno in CANNOT_WRITE and reason.filename is None:
            reason.filename = str(folder)
        raise
    finally:
        lock.release()


def difference(state: Mapping[str, Any], own: Mapping[str, Any]) -> str | None:
    """Why a run cannot go on from a checkpoint, as the end of a sentence; None if it can.

    Args:
        state: of the checkpoint. Those of earlier versions do not have all of what `own` has.
        own: "entry", "classes", "epoch", "dataset", "average" and "settings" of the run.
    """
    if not isinstance(state, Mapping) or not state.keys() >= KEYS:
        return "is not a checkpoint of training"
    if state.get("entry", own["entry"]) != own["entry"]:
        return f"is of {state['entry']}, not of {own['entry']}"
    before, now = (list(each["classes"]) for each in ({**own, **state}, own))
    if before != now:
        if len(before) != len(now):
            return f"was trained on {len(before)} classes, not on {len(now)}"
        old, new = next(names for names in zip(before, now, strict=True) if len({*names}) > 1)
        return (
            f"was trained on the class {old!r} where the dataset now has {new!r}: its categories "
            "or their ids have changed"
        )
    if state.get("dataset") and own["dataset"] and state["dataset"] != own["dataset"]:
        return "was trained on another state of the dataset: images or boxes have changed since"
    if state["epoch"] != own["epoch"]:
        return (
            f"was trained with epochs of {state['epoch']:g} iterations, not {own['epoch']:g}: "
            "resume with the same solver.batch and dataset"
        )
    if (state["average"] is None) != (own["average"] is None):
        return "was trained with another solver.ema"
    if not state.get("settings") or not own["settings"]:
        return None
    then, today = _fixed(state["settings"]), _fixed(own["settings"])
    for key in [*then, *today]:
        if then.get(key) != today.get(key):
            return f"was trained with {key}={then.get(key)}, not {today.get(key)}"
    return None


def fingerprint(dataset: DetectionDataset) -> str:
    """A hash of the images' ids and sizes and of their boxes, wherever the files are."""
    digest = hashlib.sha256(repr(dataset.classes).encode())
    for array in (dataset.image_ids, dataset.sizes, dataset.boxes, dataset.labels, dataset.ends):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def _fixed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that cannot change, by their dotted names."""
    flat = _flat(settings)
    return {key: flat[key] for key in flat if key in FIXED or key.partition(".")[0] in FIXED}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their dotted names."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
