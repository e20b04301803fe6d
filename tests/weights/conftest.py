from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from mirrors import FaultyServer

from zoo import https


@pytest.fixture(autouse=True)
def _no_waiting(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(https, "_sleep", lambda seconds: None)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as server:
        yield server
