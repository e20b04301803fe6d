from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from mirrors import FaultyServer, own_settings

from zoo import https


@pytest.fixture(autouse=True)
def _default_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own_settings(monkeypatch, tmp_path / "home")
    monkeypatch.setattr(https, "_sleep", lambda seconds: None)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as server:
        yield server
