"""The folder of a run: its lock, its weights, and checkpoints that survive if it is killed."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import re
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from fcos.data.dataset import DetectionDataset
from fcos.settings import detector_settings
from fcos.train import distributed

# The keys of a training checkpoint.
KEYS = {"iteration", "epoch", "random", "skipped", "model", "average", "optimizer", "scaler"}
# Sections and settings that cannot change within a run, unlike rates, intervals and paths.
FIXED = (
    *("backbone", "pyramid", "head", "images", "resize", "assigner", "loss", "decoder", "detector"),
    *("augmentation", "data.plus_one", "data.whole_pixels", "data.keep_empty", "data.flip"),
    *("data.aspect_ratio_group_size", "data.split", "freeze", "run.seed"),
)
RECIPE = ("solver", "schedule")  # sections that may change, with a warning
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Lock the folder of a run until the end of the block, or of the process.

    Raises:
        OSError: on all ranks: another run holds it, or nothing can be written there. Later, in the
            block: the disk is full or read-only; the error names the folder.
    """
    lock = FileLock(folder / "run.lock")

    def acquire() -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            raise FileExistsError(
                f"another process is training in {folder}: wait for it, or choose another "
                "run.folder"
            ) from None
        except OSError as reason:
            raise OSError(
                f"{folder} cannot be written ({reason}): choose another run.folder"
            ) from None

    distributed.of_leader(acquire)
    try:
        yield
    except OSError as reason:
        if reason.errno in CANNOT_WRITE and reason.filename is None:
            reason.filename = str(folder)
        raise
    finally:
        lock.release()


def write(content: Mapping[str, Any], path: Path) -> None:
    """Write a torch file, which only gets its name once it is complete.

    Raises:
        OSError: it could not be written; it is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.parent / "unfinished.part"  # replaced by the next write if a run is killed
    try:
        with part.open("wb") as file:
            torch.save(dict(content), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except (OSError, RuntimeError) as error:  # torch's writer hides the reason
        part.unlink(missing_ok=True)
        free = shutil.disk_usage(path.parent).free >> 20
        raise OSError(
            f"{path} could not be written, {free} MiB are free there ({error}): make room, or "
            "choose another run.folder"
        ) from error


def release(
    state: Mapping[str, Tensor],
    classes: Sequence[str],
    entry: str,
    path: Path,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write only the weights and the detector's settings, as `zoo.get(path)` reads them.

    Args:
        state: the state dict of the detector.
        classes: the names of its classes.
        entry: the name of the model.
        path: the file to write.
        settings: the configuration of the run.
    """
    content: dict[str, Any] = {"model": dict(state), "classes": list(classes), "entry": entry}
    if settings is not None:
        content["config"] = detector_settings(settings, classes)
    write(content, path)


class Checkpoints:
    """The newest checkpoints of a run, one file each, `iteration_0001000.pth`.

    Args:
        folder: the folder, which is created for the first one.
        keep: the number to keep; older ones are removed once a newer one is complete.
    """

    def __init__(self, folder: Path, keep: int = 3) -> None:
        self.folder = folder
        self.keep = keep

    def save(self, state: Mapping[str, Any], iteration: int) -> Path:
        """Write a checkpoint, then remove those that are too old.

        Newer ones are removed as well: they are damaged, so that a resumed run skipped them.
        """
        path = self.folder / f"iteration_{iteration:07d}.pth"
        write(state, path)
        paths = self.paths()
        newest = paths.index(path)
        for other in (*paths[:newest], *paths[newest + self.keep :]):
            other.unlink()
        return path

    def paths(self) -> list[Path]:
        """Return the paths of all checkpoints, newest first."""
        found = [p for p in self.folder.glob("*.pth") if re.fullmatch(r"iteration_\d+", p.stem)]
        return sorted(found, key=lambda path: int(path.stem.split("_")[1]), reverse=True)

    def newest(
        self, refuse: Callable[[dict[str, Any]], str | None] = lambda state: None
    ) -> Path | None:
        """Return the newest checkpoint that can be used, None if there are none at all.

        A warning names each newer one, with the reason.

        Args:
            refuse: a function that returns why a checkpoint cannot be used, None if it can.

        Raises:
            ValueError: there are some, but none that can be used.
        """
        reasons: dict[Path, str] = {}
        for path in self.paths():
            try:
                with zipfile.ZipFile(path) as archive:
                    if archive.testzip() is not None:
                        raise zipfile.BadZipFile
                reason = refuse(load(path, mmap=True))
            except Exception:  # readers raise errors of any type for damaged files
                reason = "is damaged"
            if reason is None:
                for other, problem in reasons.items():
                    warnings.warn(f"{other} {problem}: an older checkpoint is loaded", stacklevel=3)
                return path
            reasons[path] = reason
        for path, reason in reasons.items():
            if reason != "is damaged":
                raise ValueError(f"{path} {reason}; choose another run.folder to start a new run")
        if reasons:
            raise ValueError(
                f"every checkpoint in {self.folder} is damaged, {next(iter(reasons)).name} the "
                "newest: remove the folder to start again"
            )
        return None


def load(path: Path, mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint into CPU memory.

    Raises:
        FileNotFoundError: another process found it in a folder that this machine does not share.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not on this machine: choose a run.folder that all machines share"
        )
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    return state


def difference(state: Mapping[str, Any], own: Mapping[str, Any]) -> str | None:
    """Return why a run cannot continue from a checkpoint, as the end of a sentence, or None.

    Args:
        state: the content of the checkpoint; those of earlier versions lack some keys of `own`.
        own: "entry", "classes", "epoch", "dataset", "average" and "settings" of the run.
    """
    if not isinstance(state, Mapping) or not state.keys() >= KEYS:
        return "is not a checkpoint of training"
    if state.get("entry", own["entry"]) != own["entry"]:
        return f"is of {state['entry']}, not of {own['entry']}"
    before, now = list(state.get("classes", own["classes"])), list(own["classes"])
    if len(before) != len(now):
        return f"was trained on {len(before)} classes, not on {len(now)}"
    for old, new in zip(before, now, strict=True):
        if old != new:
            return (
                f"was trained on the class {old!r} where the dataset now has {new!r}: its "
                "categories or their ids have changed"
            )
    if state.get("settings") and own["settings"]:
        then, today = _chosen(state["settings"], FIXED), _chosen(own["settings"], FIXED)
        for key in [*then, *today]:
            if then.get(key) != today.get(key):
                return f"was trained with {key}={then.get(key)}, not {today.get(key)}"
    if state.get("dataset") and own["dataset"] and state["dataset"] != own["dataset"]:
        return "was trained on another state of the dataset: images or boxes have changed since"
    if state["epoch"] != own["epoch"]:
        return (
            f"was trained with epochs of {state['epoch']:g} iterations, not {own['epoch']:g}: "
            "resume with the same solver.batch and dataset"
        )
    if (state["average"] is None) != (own["average"] is None):
        return "was trained with another solver.ema"
    return None


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """List settings of optimiser and schedule that differ: "solver.base_lr=0.02, before 0.01"."""
    then, today = _chosen(before, RECIPE), _chosen(now, RECIPE)
    return [
        f"{key}={today[key]}, before {then[key]}"
        for key in today
        if key in then and today[key] != then[key]
    ]


def _chosen(settings: Mapping[str, Any], names: Sequence[str], prefix: str = "") -> dict[str, Any]:
    """Return the settings with these names, or in sections with these names, by dotted names."""
    chosen: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            chosen |= _chosen(value, names, f"{name}.")
        elif name in names or name.partition(".")[0] in names:
            chosen[name] = value
    return chosen


def fingerprint(dataset: DetectionDataset) -> str:
    """Return a hash of the images' ids, sizes and boxes, which does not depend on their folder."""
    digest = hashlib.sha256(repr(dataset.classes).encode())
    for array in (dataset.image_ids, dataset.sizes, dataset.boxes, dataset.labels, dataset.ends):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the state of this process's random generators."""
    state: dict[str, Any] = {"torch": torch.get_rng_state(), "python": random.getstate()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Restore the state that `random_state` returned."""
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
