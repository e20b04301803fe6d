"""Weights files of every kind are recognised by their first bytes and read."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from zoo.files import UnreadableError, read
from zoo.sources import WeightsError

WEIGHT = torch.arange(6, dtype=torch.float32).reshape(2, 3)
ARRAY = WEIGHT.numpy()


def test_safetensors(tmp_path: Path) -> None:
    save_file({"conv.weight": WEIGHT}, tmp_path / "w.bin")
    assert torch.equal(read(tmp_path / "w.bin")["conv.weight"], WEIGHT)


@pytest.mark.parametrize("name", ["FCOS_R_50_1x.pth", "vovnet.pth.tar", "net.pkl"])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files(tmp_path: Path, name: str, zipped: bool) -> None:
    checkpoint = {
        "model": OrderedDict({"module.conv.weight": WEIGHT, "steps": torch.tensor(3)}),
        "optimizer": {"state": {0: {"momentum_buffer": WEIGHT}}, "param_groups": [{"lr": 0.01}]},
        "iteration": 89999,
        "author": ("a", None, True),
    }
    torch.save(checkpoint, tmp_path / name, _use_new_zipfile_serialization=zipped)
    content = read(str(tmp_path / name))
    assert torch.equal(content["model"]["module.conv.weight"], WEIGHT)
    assert content["optimizer"]["param_groups"] == [{"lr": 0.01}]
    assert content["author"] == ("a", None, True)


def test_torch_files_are_mapped_and_cannot_be_written_through(tmp_path: Path) -> None:
    torch.save({"weight": WEIGHT}, tmp_path / "w.pth")
    before = (tmp_path / "w.pth").read_bytes()
    read(tmp_path / "w.pth")["weight"].zero_()
    assert (tmp_path / "w.pth").read_bytes() == before


@pytest.mark.parametrize("zipped", [True, False])
def test_numpy_inside_torch_files(tmp_path: Path, zipped: bool) -> None:
    content = {"array": ARRAY, "best": np.float64(38.7), "weight": WEIGHT, "list": [ARRAY]}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    got = read(tmp_path / "w.pth")
    assert isinstance(got["list"][0], np.ndarray)
    np.testing.assert_array_equal(got["array"], ARRAY)
    assert got["best"] == 38.7


ARRAYS = {
    "float": ARRAY,
    "fortran": np.asfortranarray(ARRAY),
    "strided": np.arange(10)[::3],
    "big endian": np.arange(3, dtype=">i4"),
    "half": np.ones(3, np.float16),
    "bool": np.array([True, False]),
    "text": np.array(["ab", "c"]),
    "empty": np.empty((0, 4), np.float32),
    "number": np.array(2.5),
    "scalar": np.int64(7),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_arrays(tmp_path: Path, protocol: int) -> None:
    content = {"model": OrderedDict(ARRAYS), "set": {1}, "bytes": b"\xff\0", "author": "é"}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(content, protocol))
    got = read(tmp_path / "R-50.pkl")
    for name, array in ARRAYS.items():
        assert isinstance(got["model"][name], type(array))
        assert np.can_cast(got["model"][name].dtype, array.dtype, "equiv")
        np.testing.assert_array_equal(got["model"][name], array)
    assert (got["set"], got["bytes"], got["author"]) == ({1}, b"\xff\0", "é")
    torch.from_numpy(got["model"]["float"]).zero_()  # writable


@pytest.mark.parametrize(
    "names", [(b"numpy._core", b"numpy.core"), (b"numpy.core", b"numpy._core")]
)
def test_pickles_of_numpy_1_and_2(tmp_path: Path, names: tuple[bytes, bytes]) -> None:
    content = pickle.dumps({"w": ARRAY, "n": np.float32(3)}, protocol=2).replace(*names)
    assert names[1] in content
    (tmp_path / "w.pkl").write_bytes(content)
    np.testing.assert_array_equal(read(tmp_path / "w.pkl")["w"], ARRAY)


def test_a_pickle_of_python_2(tmp_path: Path) -> None:
    """Caffe2's layout, whose raw bytes are strings."""
    raw = ARRAY.tobytes()
    (tmp_path / "R-50-GN.pkl").write_bytes(
        b"\x80\x02}U\x05blobs}U\x07conv1_wcnumpy.core.multiarray\n_reconstruct\n"
        b"cnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02K\x03\x86cnumpy\ndtype\n"
        b"U\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U" + bytes([len(raw)]) + raw + b"tbss."
    )
    np.testing.assert_array_equal(read(tmp_path / "R-50-GN.pkl")["blobs"]["conv1_w"], ARRAY)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is an empty file: download"),
        (b"<!doctype html><title>Sign in</title>", "is a log-in page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS pointer"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is not a weights file"),
        (pickle.dumps([1, 2]), "holds a list, not a mapping"),
    ],
)
def test_other_files_are_named(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=f"w.pth.*{reason}"):
        read(tmp_path / "w.pth")


@pytest.mark.parametrize(
    "failure", [MemoryError(), OSError(5, "I/O error"), RuntimeError("unable to mmap 9 bytes")]
)
def test_a_temporary_failure_is_not_called_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    torch.save({"w": torch.zeros(3)}, tmp_path / "w.pth")

    def fail(*arguments: object, **options: object) -> None:
        raise failure

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(UnreadableError, match=r"w\.pth cannot be read at present: .*; try again"):
        read(tmp_path / "w.pth")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"w\.pth cannot be read: No such file or directory"):
        read(tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="Is a directory"):
        read(tmp_path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: {"model": m}, torch.nn.DataParallel])
def test_a_module_that_was_saved_whole_is_not_called_damaged(
    tmp_path: Path, wrap: Callable[..., object], zipped: bool
) -> None:
    path = tmp_path / "w.pth"
    detector = wrap(torch.nn.Conv2d(1, 1, 1))
    torch.save(detector, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError) as caught:
        read(path)
    message = str(caught.value)
    assert "holds a whole Python object, not only its weights: it calls torch.nn." in message
    assert "torch.save({'model': detector.state_dict()}, PATH)" in message
    assert "damaged" not in message
