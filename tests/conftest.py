"""Settings of all tests, and a cache, a mirror and a Hub of their own for those that download."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from hypothesis import settings
from mirrors import FaultyServer, HubServer, own_settings

settings.register_profile("zoo", deadline=None, max_examples=50)
settings.load_profile("zoo")

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of a cache of the test's own; the network is allowed."""
    return own_settings(monkeypatch, tmp_path / "home")


@pytest.fixture
def mirror(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    """The first place that `zoo.get` asks, and the only one that answers."""
    with FaultyServer() as mirror:
        monkeypatch.setenv("FCOS_ZOO_MIRRORS", mirror.url())
        monkeypatch.setenv("HF_ENDPOINT", mirror.url("nothing"))
        yield mirror


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hugging Face Hub without files."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with HubServer() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url())
        yield hub
