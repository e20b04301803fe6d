"""Every fault of a host; the table of faults is in faults.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from faults import BODY, FAULTS, REPORT, Fault, provoke, report


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
    fault = next(fault for fault in FAULTS if fault.name == "503 for ever")
    first, second = provoke(fault, tmp_path)[2]
    assert 0.5 <= first <= 1 <= second <= 2


def test_the_committed_report_matches_a_run() -> None:
    assert REPORT.read_text("utf-8") == report()
