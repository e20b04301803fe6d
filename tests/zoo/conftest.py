"""A small published checkpoint, as the original system would have written it."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from torch import Tensor

import zoo
from fcos import Detector
from zoo.golden import Fixture

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
SMALL = "FCOS_syncbn_bs32_c128_MNV2_FPN_1x"


@pytest.fixture(scope="session")
def _published() -> dict[str, Tensor]:
    return Fixture(GOLDEN / f"{SMALL}.json").state_dict()


@pytest.fixture
def published(_published: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `SMALL` under their published keys; the mapping may be changed."""
    return dict(_published)


@pytest.fixture(scope="session")
def _small() -> Detector:
    return zoo.build(SMALL)


@pytest.fixture
def small(_small: Detector) -> Detector:
    """`SMALL`, freshly initialised."""
    return copy.deepcopy(_small)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FCOS_ZOO_OFFLINE", "1")
    monkeypatch.setenv("FCOS_ZOO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("FCOS_ZOO_MIRRORS", raising=False)
