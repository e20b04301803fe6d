"""Files that would run a command, exhaust memory or read beyond their end are refused."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

import zoo
from zoo.files import STAND_INS, read
from zoo.sources import WeightsError

WEIGHT = torch.arange(4096, dtype=torch.float32)


class Bomb:
    """Makes a marker file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


class EvalBomb(Bomb):
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (f"open({str(self.marker)!r}, 'w').close()",)


def _pickle(bomb: Bomb, protocol: int) -> bytes:
    return pickle.dumps({"model": {"w": np.ones(2)}, "x": bomb}, protocol)


def _torch(bomb: Bomb, path: Path, **options: Any) -> None:
    torch.save({"model": {"w": WEIGHT}, "x": bomb}, path, **options)


PROGRAMS: dict[str, Callable[[Bomb, Path], object]] = {
    **{
        f"pickle, protocol {protocol}": lambda bomb, path, protocol=protocol: path.write_bytes(
            _pickle(bomb, protocol)
        )
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    },
    "pickle, eval": lambda bomb, path: path.write_bytes(_pickle(EvalBomb(bomb.marker), 2)),
    "torch zip": _torch,
    "torch legacy": lambda bomb, path: _torch(bomb, path, _use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("name", ["w.pth", "w.pkl", "w.safetensors"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_are_refused_unexecuted(tmp_path: Path, program: str, name: str) -> None:
    path, marker = tmp_path / name, tmp_path / "marker"
    PROGRAMS[program](Bomb(marker), path)
    reason = r"it calls .*(system|eval), which is|a torch file with a wrong name"
    with pytest.raises(WeightsError, match=f"{name} .*({reason})"):
        read(path)
    assert not marker.exists()
    # The file is effective: a reader that trusts it runs the command.
    path = path.rename(tmp_path / "w.pth")
    if "torch" in program:
        torch.load(path, weights_only=False)
    else:
        pickle.loads(path.read_bytes())
    assert marker.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("numpy", "load"),
        ("numpy", "core.multiarray.frombuffer"),
        ("numpy.core.multiarray", "_reconstruct.__class__"),
        ("collections", "OrderedDict.fromkeys"),
        ("builtins", "getattr"),
        ("torch", "load"),
    ],
)
def test_no_other_name_is_allowed(tmp_path: Path, module: str, name: str) -> None:
    names = b"".join(b"\x8c%c%s" % (len(each), each.encode()) for each in (module, name))
    (tmp_path / "w.pkl").write_bytes(b"\x80\x04}" + names + b"\x93\x8c\x01ks.")
    with pytest.raises(WeightsError, match=f"it calls {module}.{name}, which is not allowed"):
        read(tmp_path / "w.pkl")


@pytest.mark.parametrize("admitted", [*STAND_INS, "collections.OrderedDict", "_codecs.encode"])
@pytest.mark.parametrize("state", [b"}X\x01\0\0\0ai\x01s", b"N}X\x01\0\0\0aK\x01s\x86"])
def test_a_pickle_cannot_extend_its_allowed_functions(
    tmp_path: Path, admitted: str, state: bytes
) -> None:
    module, _, name = admitted.rpartition(".")
    change = f"c{module}\n{name}\n".encode() + state + b"b"
    (tmp_path / "w.pkl").write_bytes(b"\x80\x02}K\x01" + change + b"s.")
    with pytest.raises(WeightsError, match="not safe to read"):
        read(tmp_path / "w.pkl")
    assert not hasattr(STAND_INS.get(admitted, OrderedDict), "a")


@pytest.mark.parametrize(
    "array",
    [np.array([object()]), np.array([(1, 2)], dtype="i4,i4"), np.array(["2020-01-01"], "M8[D]")],
    ids=["objects", "records", "dates"],
)
def test_only_plain_numbers_are_allowed(tmp_path: Path, array: np.ndarray) -> None:
    content = {"w": array if array.dtype != object else np.array([None, 1])}
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(WeightsError, match="does not stand for plain numbers"):
        read(tmp_path / "w.pkl")


def _nested(depth: int) -> bytes:
    """A pickle of lists within lists."""
    return b"\x80\x02}K\x01" + b"]" * depth + b"a" * (depth - 1) + b"s."


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x05}\x96" + struct.pack("<Q", 1 << 62) + b"ab.",  # a bytearray of 4 EiB
        b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"}.",  # a frame of 4 EiB
        _nested(100_000),
    ],
    ids=["bytearray", "frame", "nested"],
)
def test_exhausted_memory_or_recursion_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pkl").write_bytes(content)
    with pytest.raises((WeightsError, zoo.CheckpointError), match=r"^[^\n]*w\.pkl[^\n]*$"):
        zoo.load_checkpoint(zoo.build("FCOS_shapes_tiny"), tmp_path / "w.pkl")


FILES: dict[str, Callable[[Path], object]] = {
    "safetensors": lambda path: path.write_bytes(save({"w": WEIGHT})),
    "torch zip": lambda path: torch.save({"w": WEIGHT}, path),
    "torch legacy": lambda path: torch.save(
        {"w": WEIGHT}, path, _use_new_zipfile_serialization=False
    ),
    "pickle": lambda path: path.write_bytes(pickle.dumps({"w": WEIGHT.numpy()})),
}


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("kind", FILES)
def test_truncated_files_are_refused(tmp_path: Path, kind: str, share: float) -> None:
    path = tmp_path / "w.pth"
    FILES[kind](path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(WeightsError, match=rf"w\.pth \({kind}\) is damaged or not safe to read"):
        read(path)


@pytest.mark.parametrize("length", [1 << 20, 1 << 33, (1 << 63) - 1])
def test_a_safetensors_header_longer_than_the_file_is_refused(tmp_path: Path, length: int) -> None:
    (tmp_path / "w.pth").write_bytes(struct.pack("<Q", length) + b"{}" + bytes(100))
    with pytest.raises(WeightsError, match=r"w\.pth \(safetensors\) is damaged"):
        read(tmp_path / "w.pth")


def _repack(path: Path, change: Callable[[str, bytes], bytes], compression: int) -> None:
    """Writes a torch zip again with its entries changed."""
    with zipfile.ZipFile(path) as archive:
        entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries:
            archive.writestr(name, change(name, content))


class Claim:
    """A tensor that claims to have other values than its storage."""

    def __init__(self, shape: tuple[int, ...], stride: tuple[int, ...]) -> None:
        self.shape, self.stride = shape, stride

    def __reduce__(self) -> tuple[Any, ...]:
        storage = torch.storage.TypedStorage(
            wrap_storage=WEIGHT.untyped_storage(), dtype=WEIGHT.dtype, _internal=True
        )
        arguments = (storage, 0, self.shape, self.stride, False, OrderedDict())
        return torch._utils._rebuild_tensor_v2, arguments


@pytest.mark.parametrize("name", ["w.pth", "w.zip"], ids=["legacy", "zip"])
@pytest.mark.parametrize(
    ("shape", "stride"), [((1 << 20,), (1,)), ((1 << 40,), (0,)), ((4096, 2), (1, 0))]
)
def test_tensors_larger_than_their_storage_are_refused(
    tmp_path: Path, shape: tuple[int, ...], stride: tuple[int, ...], name: str
) -> None:
    path = tmp_path / name
    options = {"_use_new_zipfile_serialization": name.endswith("zip")}
    torch.save({"w": Claim((64, 64), (64, 1))}, path, **options)
    assert torch.equal(read(path)["w"].flatten(), WEIGHT)
    torch.save({"w": Claim(shape, stride)}, path, **options)
    with pytest.raises(WeightsError, match=r"w\.\w+ \(torch \w+\) is damaged or not safe"):
        read(path)


def test_a_storage_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"w": WEIGHT}, path)
    _repack(path, lambda name, content: content[:64] if "/data/" in name else content, 0)
    with pytest.raises(WeightsError, match=r"w\.pth \(torch zip\) is damaged"):
        read(path)


def test_zip_bombs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"w": torch.zeros(1 << 24)}, path)
    _repack(path, lambda name, content: content, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 17
    with pytest.raises(WeightsError, match=r"its entries are compressed"):
        read(path)


def test_other_zip_archives_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", w=np.ones(3))
    with pytest.raises(WeightsError, match=r"without data\.pkl, which torch did not write"):
        read(tmp_path / "w.npz")
