"""What tests of `zoo.get` and of the commands share: a cache of their own and files to serve."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

sys.path.append(str(Path(__file__).parent / "weights"))

from faulty_server import FaultyServer, drop
from hub_server import COMMIT, HubServer

__all__ = ["COMMIT", "FaultyServer", "HubServer", "drop", "own_settings", "saved"]


def own_settings(monkeypatch: pytest.MonkeyPatch, home: Path) -> Path:
    """No settings of the machine that runs the tests, and a cache in `home`; returns its folder."""
    for name in ("FCOS_ZOO_MIRRORS", "FCOS_ZOO_OFFLINE", "HF_ENDPOINT", "HF_TOKEN", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FCOS_ZOO_HOME", str(home))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    home.mkdir()
    monkeypatch.chdir(home)
    return home / "weights"


def saved(content: Any) -> bytes:
    """The bytes of a torch file."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()
