"""Many processes, and processes that die."""

from __future__ import annotations

import hashlib
import multiprocessing
import random
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from faulty_server import FaultyServer

from zoo.weights import Location, Retry, fetch

BODY = b"\x80\x02" + random.Random(4).randbytes(1 << 20)
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(scope="module")
def context() -> multiprocessing.context.ForkServerContext:
    """Starts processes in milliseconds: forks of one that has imported all they need."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "zoo.weights"])
    return context


def start(
    context: multiprocessing.context.ForkServerContext, location: Location, folder: Path
) -> BaseProcess:
    """A process that fetches into the folder."""
    options = {"cache": folder, "progress": False, "retry": Retry(tries=1)}
    process = context.Process(target=fetch, args=("w.pth", [location]), kwargs=options)
    process.start()
    return process


def test_eight_processes_download_once(
    server: FaultyServer, tmp_path: Path, context: multiprocessing.context.ForkServerContext
) -> None:
    resource = server.add("w.pth", BODY, pause=0.02)
    location = Location(server.url("w.pth"), sha256=SHA256)
    processes = [start(context, location, tmp_path) for _ in range(8)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 8
    assert len(resource.asked) == 1
    assert (tmp_path / "w.pth").read_bytes() == BODY


def test_eight_threads_download_once(server: FaultyServer, tmp_path: Path) -> None:
    resource = server.add("w.pth", BODY, pause=0.02)
    location = Location(server.url("w.pth"), sha256=SHA256)
    with ThreadPoolExecutor(8) as pool:
        paths = pool.map(lambda _: fetch("w.pth", [location], cache=tmp_path), range(8))
        assert {path.read_bytes() for path in paths} == {BODY}
    assert len(resource.asked) == 1


@pytest.mark.parametrize("hashed", [True, False])
def test_kill_9_leaves_the_right_file_or_none(
    server: FaultyServer,
    tmp_path: Path,
    context: multiprocessing.context.ForkServerContext,
    hashed: bool,
) -> None:
    resource = server.add("w.pth", BODY, pause=0.01)
    location = Location(server.url("w.pth"), sha256=SHA256 if hashed else None)
    path, moments = tmp_path / "w.pth", random.Random(5)
    killed = 0
    while killed < 25:
        process = start(context, location, tmp_path)
        time.sleep(moments.uniform(0, 0.2))
        process.kill()
        process.join()
        killed += process.exitcode == -9
        if path.exists():
            assert path.read_bytes() == BODY
            path.unlink()
    assert any(resource.ranges)  # some went on where another had died
    assert fetch("w.pth", [location], cache=tmp_path, retry=Retry(tries=1)).read_bytes() == BODY
