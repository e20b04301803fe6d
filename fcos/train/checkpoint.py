"""Checkpoints, written so that a killed run leaves none damaged, and the released weights."""

from __future__ import annotations

import os
import random
import re
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.optim.swa_utils import AveragedModel

from fcos.detector import Detector
from fcos.settings import detector_settings

# Detector, moving average if there is one, optimiser and gradient scaler.
Stateful = tuple[Detector, AveragedModel | None, torch.optim.Optimizer, GradScaler]


def write(content: Mapping[str, Any], path: Path) -> None:
    """Write a torch file that only gets its name once it is whole.

    Raises:
        OSError: it could not be written; nothing is left of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.parent / "unfinished.part"  # replaced by the next write if a run is killed
    try:
        with part.open("wb") as file:
            torch.save(dict(content), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except (OSError, RuntimeError) as error:  # torch's own writer hides the reason
        part.unlink(missing_ok=True)
        free = shutil.disk_usage(path.parent).free >> 20
        raise OSError(
            f"{path} could not be written, {free} MiB are free there ({error}): make room, or "
            "choose another run.folder"
        ) from error
    if os.name == "nt":  # cannot open folders
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name, too, survives a power cut
    finally:
        os.close(folder)


def release(
    state: Mapping[str, Tensor],
    classes: Sequence[str],
    entry: str,
    path: Path,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write only the weights and the detector's settings, as `zoo.get(path)` reads them.

    Args:
        state: the detector's.
        classes: the names of its classes.
        entry: the name of the model.
        path: of the file.
        settings: the configuration of the run.
    """
    content: dict[str, Any] = {"model": dict(state), "classes": list(classes), "entry": entry}
    if settings is not None:
        content["config"] = detector_settings(settings, classes)
    write(content, path)


class Checkpoints:
    """The newest checkpoints of a run, one file each, `iteration_0001000.pth`.

    Args:
        folder: made when the first is saved.
        keep: how many; older ones are removed after a newer one is whole.
    """

    def __init__(self, folder: Path, keep: int = 3) -> None:
        if keep < 1:
            raise ValueError(f"keep at least 1 checkpoint, not {keep}")
        self.folder = folder
        self.keep = keep

    def save(self, state: Mapping[str, Any], iteration: int) -> Path:
        """Write a checkpoint, then remove those that are too old.

        Newer ones are removed as well: a resumed run skipped them because they are damaged.
        """
        path = self.folder / f"iteration_{iteration:07d}.pth"
        write(state, path)
        paths = self.paths()
        newest = paths.index(path)
        for other in (*paths[:newest], *paths[newest + self.keep :]):
            other.unlink()
        return path

    def paths(self) -> list[Path]:
        """All of them, newest first."""
        found = [p for p in self.folder.glob("*.pth") if re.fullmatch(r"iteration_\d+", p.stem)]
        return sorted(found, key=lambda path: int(path.stem.split("_")[1]), reverse=True)

    def newest(
        self, refuse: Callable[[dict[str, Any]], str | None] = lambda state: None
    ) -> tuple[Path | None, dict[Path, str]]:
        """The newest whole checkpoint, and why newer ones are passed over.

        The path is None where there is no checkpoint at all.

        Args:
            refuse: why a checkpoint cannot be used, None if it can.

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
            except Exception:  # a damaged file may make its readers raise anything
                reason = "is damaged"
            if reason is None:
                return path, reasons
            reasons[path] = reason
        if set(reasons.values()) == {"is damaged"}:
            raise ValueError(
                f"every checkpoint in {self.folder} is damaged, {next(iter(reasons)).name} the "
                "newest: remove the folder to start again"
            )
        for path, reason in reasons.items():
            if reason != "is damaged":
                raise ValueError(f"{path} {reason}; choose another run.folder to start a new run")
        return None, reasons


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


def training_state(
    detector: Detector,
    average: AveragedModel | None,
    optimizer: torch.optim.Optimizer,
    scaler: GradScaler,
) -> dict[str, Any]:
    """The state of everything that a step changes."""
    return {
        "model": detector.state_dict(),
        "moving_positives": detector.loss.moving_positives,
        "average": average.state_dict() if average else None,
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
    }


def load_training_state(
    state: Mapping[str, Any],
    detector: Detector,
    average: AveragedModel | None,
    optimizer: torch.optim.Optimizer,
    scaler: GradScaler,
) -> None:
    """Load what `training_state` saved, except for the options of the optimiser's groups.

    Learning rates, weight decays and the like stay those that the optimiser was made with.
    """
    detector.load_state_dict(state["model"])
    detector.loss.moving_positives.copy_(state["moving_positives"])
    if average:
        average.load_state_dict(state["average"])
    options = [
        {key: value for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
    ]
    optimizer.load_state_dict(state["optimizer"])
    for group, own in zip(optimizer.param_groups, options, strict=True):
        group.update(own)
    if state["scaler"]:  # of a run in fp16
        scaler.load_state_dict(state["scaler"])


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of this process's random generators."""
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
