"""Checkpoints that a killed run leaves whole, and the file that is released."""

from __future__ import annotations

import os
import random
import re
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def write(content: Mapping[str, Any], path: Path) -> None:
    """Write a torch file so that under its name there is never a part of it.

    Raises:
        OSError: it could not be written; nothing is left of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.parent / "unfinished.part"  # one name: what a killed run left is written over
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
    if os.name == "nt":  # which opens no folders
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name, too, survives a power cut
    finally:
        os.close(folder)


def release(state: Mapping[str, Tensor], classes: Sequence[str], entry: str, path: Path) -> None:
    """Write the weights alone, as `zoo.get(entry, weights=path)` reads them."""
    write({"model": dict(state), "classes": list(classes), "entry": entry}, path)


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

        Newer ones, too: a run that comes by again passed over them, since they are damaged.
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

    def newest(self) -> tuple[dict[str, Any] | None, list[Path]]:
        """The newest whole checkpoint, on the CPU, and newer ones that are damaged.

        None where there is no checkpoint at all.

        Raises:
            ValueError: there are some, but every one is damaged.
        """
        damaged: list[Path] = []
        for path in self.paths():
            try:
                with zipfile.ZipFile(path) as archive:
                    if archive.testzip() is not None:
                        raise zipfile.BadZipFile
                state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
                return state, damaged
            except Exception:  # a damaged file may make its readers raise anything
                damaged.append(path)
        if damaged:
            raise ValueError(
                f"every checkpoint in {self.folder} is damaged, {damaged[0].name} the newest: "
                "remove the folder to start anew"
            )
        return None, []


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of this process's random generators."""
    state: dict[str, Any] = {"torch": torch.get_rng_state(), "python": random.getstate()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Put the random generators where `random_state` found them."""
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
