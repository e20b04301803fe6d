"""Configs composed by Hydra, which an application of the user's may run in as well."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.version import VersionBase
from omegaconf import OmegaConf

# Relative to this file and not as a package, so that a user's own `configs` cannot stand before it.
CONFIGS = Path(__file__).resolve().parent.parent / "configs"
_ONE_AT_A_TIME = threading.Lock()  # Hydra's state is the process's


def composed(path: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A file of `configs`, without its suffix, with all that it is made of, as plain containers.

    Raises:
        ValueError: an override of what is not there, or of no known form.
    """
    with _ONE_AT_A_TIME, _set_aside(), initialize_config_dir(str(CONFIGS), version_base=None):
        try:
            config = compose(path, overrides=list(overrides))
        except HydraException as error:
            name = path.rpartition("/")[2]
            raise ValueError(f"{name}: {' '.join(str(error).split())}") from None
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


@contextmanager
def _set_aside() -> Iterator[None]:
    """An application that runs in Hydra finds it afterwards as it was."""
    running, version = GlobalHydra.instance().hydra, VersionBase.instance()
    base = version.getbase()
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = running
        version.version_base = base  # which `setbase` takes only if there was one
