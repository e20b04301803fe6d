"""What several tests of the benchmark use."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.cases import Dataset
from fcos.data import shapes


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """24 drawn images of the size that `FCOS_shapes_tiny` takes."""
    annotations = shapes.write(tmp_path_factory.mktemp("shapes"), 24, size=160)
    return Dataset.of(annotations, annotations.parent / "images")


@pytest.fixture
def without_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, and an empty cache of weights."""
    monkeypatch.setenv("FCOS_ZOO_OFFLINE", "1")
    monkeypatch.setenv("FCOS_ZOO_HOME", str(tmp_path / "home"))
