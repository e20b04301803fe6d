"""Every fault of a host, and any series of them; the table of faults is in faults.py."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import faulty_server as host
import pytest
from faults import BODY, FAULTS, REPORT, Fault, provoke, report
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo import https
from zoo.download import fetch
from zoo.sources import FileSource, WeightsError


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault(fault: Fault, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    reason, starts, _ = provoke(fault, folder)
    assert reason == fault.reason
    assert starts == fault.requests
    assert (folder / "w.pth").is_file() == (fault.reason is None)
    # What is left does not get in the way of a host that has recovered.
    assert provoke(replace(fault, faults=(), body=BODY), folder)[0] is None or not fault.promise


def test_retry_after_is_honoured(tmp_path: Path) -> None:
    fault = next(fault for fault in FAULTS if fault.name == "429 with Retry-After, then 200")
    assert provoke(fault, tmp_path)[2] == [7.0]


def test_waits_double_with_jitter(tmp_path: Path) -> None:
    fault = next(fault for fault in FAULTS if fault.name == "503 every time")
    first, second = provoke(fault, tmp_path)[2]
    assert 0.5 <= first <= 1 <= second <= 2


def test_the_committed_report_matches_a_run() -> None:
    assert REPORT.read_text("utf-8") == report()


bodies = st.binary(max_size=5000).map(lambda content: b"\x80\x02" + content)
cuts = st.integers(0, 5000)
breaks = st.one_of(
    cuts.map(host.drop),
    cuts.map(host.ignore_range),
    st.just(host.wrong_range),
    st.sampled_from([429, 500, 503, 416]).map(host.status),
)
changes = st.builds(lambda body, cut: host.change(body, host.drop(cut)), bodies, cuts)


@pytest.fixture(scope="module")
def shared() -> Iterator[host.FaultyServer]:
    with host.FaultyServer() as server, patch.multiple(https, TRIES=50):
        yield server


@settings(max_examples=30, deadline=None)
@given(
    body=bodies,
    faults=st.lists(st.one_of(breaks, changes), max_size=8),
    etag=st.booleans(),
    hashed=st.booleans(),
)
def test_any_faults(
    shared: host.FaultyServer, body: bytes, faults: list[host.Fault], etag: bool, hashed: bool
) -> None:
    digest = hashlib.sha256(body).hexdigest() if hashed else None
    back = host.change(body) if hashed else host.good  # the bytes that the hash is of
    resource = shared.add("w.pth", body, *faults, back, etag=etag)
    with tempfile.TemporaryDirectory() as folder:
        source = FileSource(shared.url("w.pth"), sha256=digest)
        path = Path(folder) / "w.pth"
        for _ in range(10):
            try:
                fetch("w.pth", [source], folder=path.parent, progress=False)
                break
            except WeightsError:  # a changed file has another hash; a range may come unasked
                assert not path.exists()
        assert path.read_bytes() == resource.body
