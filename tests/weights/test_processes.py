"""Many processes, and processes that die."""

from __future__ import annotations

import hashlib
import multiprocessing
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from faulty_server import FaultyServer

import zoo.download
from zoo import https
from zoo.download import fetch
from zoo.sources import FileSource

BODY = b"\x80\x02" + random.Random(4).randbytes(1 << 20)
SHA256 = hashlib.sha256(BODY).hexdigest()


# Starts processes in milliseconds: forks of one that has imported all they need.
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["__main__", "pytest", "zoo.download"])


def begin(source: FileSource, folder: Path) -> BaseProcess:
    """A process that is about to fetch into the folder."""
    here, there = context.Pipe()
    process = context.Process(target=_fetch, args=(there, source, folder))
    process.start()
    here.recv()
    return process


def _fetch(ready: Connection, source: FileSource, folder: Path) -> None:
    ready.send(None)
    https.TRIES = 1
    fetch("w.pth", [source], folder=folder, progress=False)


@pytest.fixture(scope="module", autouse=True)
def _found_by_children() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(zoo.download.__file__).parents[1]))
        yield


def test_eight_processes_download_once(server: FaultyServer, tmp_path: Path) -> None:
    resource = server.add("w.pth", BODY, pause=0.1)
    source = FileSource(server.url("w.pth"), sha256=SHA256)
    processes = [begin(source, tmp_path) for _ in range(8)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 8
    assert len(resource.asked) == 1
    assert (tmp_path / "w.pth").read_bytes() == BODY


def test_eight_threads_download_once(server: FaultyServer, tmp_path: Path) -> None:
    resource = server.add("w.pth", BODY, pause=0.02)
    source = FileSource(server.url("w.pth"), sha256=SHA256)
    with ThreadPoolExecutor(8) as pool:
        paths = pool.map(lambda _: fetch("w.pth", [source], folder=tmp_path), range(8))
        assert {path.read_bytes() for path in paths} == {BODY}
    assert len(resource.asked) == 1


@pytest.mark.parametrize("hashed", [True, False])
def test_kill_9_leaves_the_right_file_or_none(
    server: FaultyServer, tmp_path: Path, hashed: bool
) -> None:
    resource = server.add("w.pth", BODY, pause=0.01)
    source = FileSource(server.url("w.pth"), sha256=SHA256 if hashed else None)
    path, moments = tmp_path / "w.pth", random.Random(5)
    killed = 0
    while killed < 10:
        process = begin(source, tmp_path)
        time.sleep(moments.uniform(0, 0.2))
        process.kill()
        process.join()
        killed += process.exitcode == -9
        if path.exists():
            assert path.read_bytes() == BODY
            path.unlink()
    assert any(resource.ranges)  # some went on where another had died
    assert fetch("w.pth", [source], folder=tmp_path).read_bytes() == BODY
