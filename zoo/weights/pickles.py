"""Reads pickles of numpy arrays without executing anything that they hold.

A pickle is a program. Of what it calls, plain containers are admitted, and numpy's names, for which
:data:`STAND_INS` puts classes of ours that build plain numbers and arrays from checked parts. They
define ``__setstate__``, so that a pickle cannot set attributes on them either.
"""

from __future__ import annotations

import mmap
import pickle
import re
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np


class _StandIn:
    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError(f"{type(self).__name__} takes no state")


class _DType(_StandIn):
    """``numpy.dtype``: numbers, booleans and strings, no objects and no records."""

    __slots__ = ("value",)

    def __init__(self, code: str, align: Any = False, copy: Any = False) -> None:
        if not re.fullmatch(r"[<>=|]?[biufcSU]\d{1,9}", code):
            raise pickle.UnpicklingError(f"dtype {code!r} is not one of plain numbers")
        self.value: np.dtype[Any] = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.value = self.value.newbyteorder(state[1])


class _Array(_StandIn):
    """``numpy.ndarray`` and what numpy 1 and 2 rebuild one with."""

    __slots__ = ("value",)

    def __init__(self, *initial: Any) -> None:
        self.value: np.ndarray[Any, Any] = np.empty(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        shape, dtype, fortran, raw = state[-4:]
        self.value = _numbers(dtype, raw).reshape(shape, order="F" if fortran else "C")


class _Buffer(_Array):
    """``numpy._core.numeric._frombuffer``, of pickle protocol 5."""

    __slots__ = ()

    def __init__(self, raw: bytes, dtype: _DType, shape: tuple[int, ...], order: Any) -> None:
        self.value = _numbers(dtype, raw).reshape(shape, order="F" if order == "F" else "C")


class _Scalar(_StandIn):
    """``numpy.core.multiarray.scalar``."""

    def __new__(cls, dtype: _DType, raw: bytes | str) -> Any:
        return _numbers(dtype, raw)[0]


class _Encode(_StandIn):
    """``_codecs.encode``, by which protocol 2 writes bytes; ``bytes``, by which it writes none."""

    def __new__(cls, text: str = "", encoding: str = "latin1") -> Any:
        return text.encode("latin1")


_NUMPY = {
    "multiarray._reconstruct": _Array,
    "multiarray.scalar": _Scalar,
    "numeric._frombuffer": _Buffer,
}
STAND_INS: dict[str, type] = {
    "numpy.ndarray": _Array,
    "numpy.dtype": _DType,
    **{f"numpy.{core}.{name}": cls for core in ("core", "_core") for name, cls in _NUMPY.items()},
}
"""What takes the place of numpy's functions, by their names in numpy 1 and 2."""

_PLAIN: dict[str, type] = {
    "collections.OrderedDict": OrderedDict,
    "_codecs.encode": _Encode,
}
for _home in ("builtins", "__builtin__"):
    _PLAIN |= {f"{_home}.set": set, f"{_home}.frozenset": frozenset, f"{_home}.bytes": _Encode}


def _load_bytearray8(unpickler: Any) -> None:
    """Python's own makes room for as many bytes as the file says, before it reads them."""
    (size,) = struct.unpack("<Q", unpickler.read(8))
    content = unpickler.read(size)
    if len(content) != size:
        raise pickle.UnpicklingError("its bytearray is longer than the file")
    unpickler.append(bytearray(content))


class _Unpickler(pickle._Unpickler):
    # The unpickler written in Python, since the one in C sizes its memo by what the file says.
    dispatch: ClassVar = {**pickle._Unpickler.dispatch, pickle.BYTEARRAY8[0]: _load_bytearray8}

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        try:
            return (STAND_INS | _PLAIN)[full]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it calls {full}, and nothing that a file holds is ever executed"
            ) from None


def read_pickle(path: Path) -> Any:
    """The numbers, strings, numpy arrays and plain containers of a pickle; text as latin-1.

    Raises:
        Exception: of any kind; a damaged or hostile pickle fails in many ways.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        return plain(_Unpickler(mapped, encoding="latin1").load())


def plain(value: Any, seen: dict[int, Any] | None = None) -> Any:
    """Puts numpy arrays where their stand-ins are, in place where the container can be changed."""
    seen = {} if seen is None else seen
    if id(value) in seen:
        return seen[id(value)]
    seen[id(value)] = value
    if isinstance(value, _StandIn):
        seen[id(value)] = getattr(value, "value", None)
    elif isinstance(value, dict):
        for key in value:
            value[key] = plain(value[key], seen)
    elif isinstance(value, list):
        value[:] = [plain(each, seen) for each in value]
    elif type(value) is tuple:
        seen[id(value)] = tuple(plain(each, seen) for each in value)
    return seen[id(value)]


def _numbers(dtype: _DType, raw: bytes | str) -> np.ndarray[Any, Any]:
    """A writable array over a pickle's bytes, which Python 2 wrote as a string."""
    data = raw.encode("latin1") if isinstance(raw, str) else raw
    return np.frombuffer(bytearray(data), dtype.value)
