"""Reads a weights file of any kind without executing anything that it holds."""

from __future__ import annotations

import re
import threading
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

from zoo.weights.errors import WeightsError
from zoo.weights.pickles import STAND_INS, plain, read_pickle
from zoo.weights.sniff import HEAD, impostor, kind


class UnreadableError(WeightsError):
    """Reading failed for a reason that may pass, a lack of memory, say; the file may be whole."""


_ONE_READER = threading.Lock()


def read(path: str | Path) -> dict[str, Any]:
    """The mapping that a weights file holds, as it was written, on the CPU.

    Safetensors and torch's zip format are mapped into memory, not copied; torch's older format and
    pickles of numpy arrays (detectron2, Caffe2) are read. The first bytes decide, not the name.

    Raises:
        UnreadableError: the file is not there, or memory or the disk failed.
        WeightsError: it is no weights file, is damaged, or holds anything but tensors, arrays,
            numbers, strings and plain containers.
    """
    if not str(path):
        raise WeightsError("no file is named: give the path of the weights")
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read: {error.strerror}; check the path") from error
    if what := impostor(head):
        raise WeightsError(f"{path} is {what}: download the weights again, from another location")
    readers = {
        "safetensors": _safetensors,
        "torch zip": _torch_zip,
        "torch legacy": _torch_legacy,
        "pickle": read_pickle,
    }
    format = kind(head)
    if format is None:
        raise WeightsError(
            f"{path} is no weights file: it must be safetensors, a torch file or a pickle of arrays"
        )
    try:
        content = readers[format](path)
    except Exception as error:  # a damaged or hostile file may make a reader raise anything
        if isinstance(error, (MemoryError, OSError)) or "unable to mmap" in str(error):
            raise UnreadableError(
                f"{path} cannot be read at present: {_reason(error)}; try again"
            ) from error
        raise WeightsError(
            f"{path} ({format}) is damaged or not safe to read: {_reason(error)}; "
            "download it again, from a location that you trust"
        ) from error
    if not isinstance(content, dict):
        raise WeightsError(
            f"{path} ({format}) holds a {type(content).__name__}, not a mapping: "
            "give the file of a state dict or checkpoint"
        )
    return content


def _reason(error: Exception) -> str:
    """One line; torch's errors are long and recommend to trust the file."""
    text = str(error)
    if called := re.search(r"\bGLOBAL (\S+)", text):
        return f"it calls {called[1]}, and nothing that a file holds is ever executed"
    text = text.partition("WeightsUnpickler error: ")[2] or text
    return text.strip().split("\n")[0] or type(error).__name__


def _safetensors(path: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(path)


def _torch_zip(path: Path) -> Any:
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("its entries are compressed, as torch never writes them")
    if sum(entry.file_size for entry in entries) > size:
        raise ValueError("its entries are larger than the file, as in a zip bomb")
    if not any(entry.filename.endswith("/data.pkl") for entry in entries):
        raise ValueError("a zip archive without data.pkl, which torch did not write")
    if path.suffix == ".safetensors":  # torch believes the name
        raise ValueError("a torch file by a wrong name: rename it to end in .pth")
    # Mapped, no storage can reach beyond the file, whatever size the file claims for it.
    return _torch_load(str(path), mmap=True)


def _torch_legacy(path: Path) -> Any:
    with path.open("rb") as file:
        return _torch_load(file)


def _torch_load(source: str | BinaryIO, mmap: bool = False) -> Any:
    import torch

    # Safe since torch 2.6: before, weights_only let the oldest of torch's formats call anything.
    # What is admitted holds for the whole process, hence one reader at a time.
    with (
        _ONE_READER,
        torch.serialization.safe_globals([(cls, name) for name, cls in STAND_INS.items()]),
    ):
        return plain(torch.load(source, map_location="cpu", weights_only=True, mmap=mmap))
