"""Read weights files of every format, recognised by their first bytes, without executing them.

Safetensors hold only tensors. Torch files and pickles are programs: `torch.load(weights_only=True)`
and a restricted `pickle.Unpickler`
(https://docs.python.org/3/library/pickle.html#restricting-globals) admit only tensors, arrays,
numbers, strings and plain containers. A crafted pickle can still use up time and memory; a
safetensors file cannot, so prefer safetensors for files of unknown origin.
"""

from __future__ import annotations

import pickle
import re
import sys
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from zoo.sources import WeightsError

HEAD = 1024
"""The number of leading bytes that `detect_format` and `describe_non_weights` need."""

_TORCH_LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch's magic number, pickled
_HTML = re.compile(rb"<(!doctype html|html|head|body|script|title)\b", re.IGNORECASE)
_LOG_IN = re.compile(rb"type=.?password|\blog[ -]?in\b|\bsign[ -]?in\b", re.IGNORECASE)
_ONE_READER = threading.Lock()  # torch's list of safe globals is global


class UnreadableError(WeightsError):
    """The file could not be read for a reason that may be temporary; it may be undamaged."""


def detect_format(head: bytes) -> str | None:
    """Return ``"safetensors"``, ``"torch zip"``, ``"torch legacy"``, ``"pickle"`` or None."""
    # A safetensors file starts with the header's length in eight bytes, the lowest of which may
    # look like the opcode at the start of a pickle.
    if head[8:9] == b"{" and (head[:1] != b"\x80" or head[5:8] == bytes(3)):
        return "safetensors"
    if head.startswith(b"PK\x03\x04"):
        return "torch zip"
    if _TORCH_LEGACY in head[:24]:
        return "torch legacy"
    if re.match(rb"\x80[\x00-\x05]|\(dp?\d*\n|}q.", head, re.DOTALL):
        return "pickle"
    return None


def describe_non_weights(head: bytes) -> str | None:
    """Say what a host sent instead of a weights file; None for a possible weights file."""
    if not head:
        return "an empty file"
    if detect_format(head):
        return None
    text = head[:HEAD].removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file it points to"
    if _HTML.search(text):
        return "a log-in page (HTML)" if _LOG_IN.search(text) else "an HTML page"
    if text.startswith(b"<?xml"):
        return "an XML message"
    if text.startswith(b"{"):
        return "a JSON message"
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in text):
        return f"a text message ({text[:60].decode('ascii').strip()!r})"
    return None


def read(path: str | Path) -> dict[str, Any]:
    """Read the mapping in a weights file, on the CPU.

    Safetensors and torch's zip format are memory-mapped, not copied.

    Raises:
        UnreadableError: the file does not exist, or memory or the disk failed.
        WeightsError: it is not a weights file, is damaged, or holds anything but tensors, arrays,
            numbers, strings and plain containers.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read: {error.strerror}; check the path") from error
    if what := describe_non_weights(head):
        raise WeightsError(f"{path} is {what}: download the weights again, from another source")
    format = detect_format(head)
    if format is None:
        raise WeightsError(
            f"{path} is not a weights file: it must be safetensors, a torch file or a pickle"
        )
    try:
        content = _READERS[format](path)
    except Exception as error:  # readers raise errors of any type for damaged or hostile files
        if isinstance(error, (MemoryError, OSError)) or "unable to mmap" in str(error):
            raise UnreadableError(
                f"{path} cannot be read at present: {_reason(error)}; try again"
            ) from error
        if _is_pickled_object(error):
            raise WeightsError(
                f"{path} ({format}) holds a whole Python object, not only its weights: "
                f"{_reason(error)}; write it by torch.save({{'model': detector.state_dict()}}, PATH"
                "), or use the best.pth of training"
            ) from error
        raise WeightsError(
            f"{path} ({format}) is damaged or not safe to read: {_reason(error)}; "
            "download it again, from a source that you trust"
        ) from error
    if not isinstance(content, dict):
        raise WeightsError(
            f"{path} ({format}) holds a {type(content).__name__}, not a mapping: "
            "give the file of a state dict or checkpoint"
        )
    return content


def _is_pickled_object(error: Exception) -> bool:
    """Whether reading failed at a class of another package, as in a file of `torch.save(detector)`.

    A hostile file would call a function or one of Python's own classes.
    """
    called = re.search(r"\bit calls (\w+)\S*\.([A-Z]\w*),", _reason(error))
    return called is not None and called[1] not in sys.stdlib_module_names


def _reason(error: Exception) -> str:
    """Return the reason in one line; torch's errors are long and recommend to trust the file."""
    text = str(error)
    if called := re.search(r"\bGLOBAL (\S+)", text):
        return f"it calls {called[1]}, which is not allowed"
    text = text.partition("WeightsUnpickler error: ")[2] or text
    return text.strip().split("\n")[0] or type(error).__name__


def _safetensors(path: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(path)


def _torch_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("its entries are compressed, as torch never writes them")
    if not any(entry.filename.endswith("/data.pkl") for entry in entries):
        raise ValueError("a zip archive without data.pkl, which torch did not write")
    if path.suffix == ".safetensors":  # torch goes by the name
        raise ValueError("a torch file with a wrong name: rename it to end in .pth")
    return _torch_load(path, mmap=True)


def _torch_load(path: Path, mmap: bool = False) -> Any:
    import torch

    stand_ins: list[Any] = [(cls, name) for name, cls in STAND_INS.items()]
    with path.open("rb") as file, _ONE_READER, torch.serialization.safe_globals(stand_ins):
        content = torch.load(
            str(path) if mmap else file, map_location="cpu", weights_only=True, mmap=mmap
        )
    # torch would enlarge a storage for a tensor that claims more values than were saved.
    storages: dict[int, int] = {}
    for tensor in _tensors(content, set()):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        if tensor.numel() * tensor.element_size() > storage.nbytes():
            raise ValueError("a tensor claims more values than its storage holds")
    if sum(storages.values()) > path.stat().st_size:
        raise ValueError("its tensors claim more values than the file holds")
    return content


def _tensors(content: Any, seen: set[int]) -> Iterator[Any]:
    """Yield the dense tensors in nested containers."""
    import torch

    if isinstance(content, torch.Tensor):
        if content.layout == torch.strided and not content.is_meta:
            yield content
    elif isinstance(content, (Mapping, list, tuple)) and id(content) not in seen:
        seen.add(id(content))
        for value in content.values() if isinstance(content, Mapping) else content:
            yield from _tensors(value, seen)


class _StandIn:
    """Replaces a function of NumPy in a pickle, which cannot set attributes of it."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError(f"{type(self).__name__} takes no state")


class _DType(_StandIn):
    """``numpy.dtype`` of numbers, booleans and strings, but not of objects and records."""

    __slots__ = ("value",)

    def __init__(self, code: str, align: Any = False, copy: Any = False) -> None:
        if not re.fullmatch(r"[<>=|]?[biufcSU]\d{1,9}", code):
            raise pickle.UnpicklingError(f"dtype {code!r} does not stand for plain numbers")
        self.value: np.dtype[Any] = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.value = self.value.newbyteorder(state[1])


class _Array(np.ndarray):
    """``numpy.ndarray`` and the functions by which NumPy 1 and 2 rebuild one."""

    def __new__(cls, *initial: Any) -> _Array:
        return super().__new__(cls, 0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        shape, dtype, fortran, raw = state[-4:]
        checked: Any = (1, shape, dtype.value, bool(fortran), _bytes(raw))
        super().__setstate__(checked)


class _Buffer(_StandIn):
    """``numpy._core.numeric._frombuffer``, of pickle protocol 5."""

    def __new__(cls, raw: bytes, dtype: _DType, shape: tuple[int, ...], order: Any) -> Any:
        return np.frombuffer(bytearray(raw), dtype.value).reshape(shape, order=order)


class _Scalar(_StandIn):
    """``numpy.core.multiarray.scalar``."""

    def __new__(cls, dtype: _DType, raw: bytes | str) -> Any:
        return np.frombuffer(_bytes(raw), dtype.value)[0]


class _Encode(_StandIn):
    """``_codecs.encode``, and ``bytes`` for empty ones, with which protocol 2 writes bytes."""

    def __new__(cls, text: str = "", encoding: str = "latin1") -> Any:
        return text.encode("latin1")


STAND_INS: dict[str, type] = {
    "numpy.ndarray": _Array,
    "numpy.dtype": _DType,
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy.core.multiarray.scalar": _Scalar,
    "numpy.core.numeric._frombuffer": _Buffer,
    "numpy._core.multiarray._reconstruct": _Array,
    "numpy._core.multiarray.scalar": _Scalar,
    "numpy._core.numeric._frombuffer": _Buffer,
}
"""Replacements of NumPy's functions, by their names in NumPy 1 and 2."""

_ALLOWED: dict[str, type] = {
    **STAND_INS,
    "collections.OrderedDict": OrderedDict,
    "_codecs.encode": _Encode,
    "builtins.bytes": _Encode,
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "__builtin__.bytes": _Encode,
    "__builtin__.set": set,
    "__builtin__.frozenset": frozenset,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if allowed := _ALLOWED.get(f"{module}.{name}"):
            return allowed
        raise pickle.UnpicklingError(f"it calls {module}.{name}, which is not allowed")


def _pickle(path: Path) -> Any:
    """Read a pickle of arrays (Caffe2's, detectron2's), with text as latin-1."""
    with path.open("rb") as file:
        return _Unpickler(file, encoding="latin1").load()


def _bytes(raw: bytes | str) -> bytes:
    """Return a pickle's bytes, which Python 2 wrote as a string."""
    return raw.encode("latin1") if isinstance(raw, str) else raw


_READERS = {
    "safetensors": _safetensors,
    "torch zip": _torch_zip,
    "torch legacy": _torch_load,
    "pickle": _pickle,
}
