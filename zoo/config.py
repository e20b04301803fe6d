"""An entry's configuration: composed by Hydra, turned into a detector.

Torch is imported only to build a detector, so that commands that show facts start fast.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, InstantiationException
from hydra.version import VersionBase
from omegaconf import OmegaConf

from zoo.registry import CONFIGS, entry_file
from zoo.renamed import rename_overrides, rename_settings

if TYPE_CHECKING:
    from fcos import Detector

_ONE_AT_A_TIME = threading.Lock()  # Hydra's state is the process's


def compose_entry(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """An entry's whole configuration as plain containers, with Hydra `overrides` applied.

    Settings may have the names of earlier versions, see `zoo.renamed`.

    Raises:
        ValueError: an override of a setting that does not exist, or a malformed one.
    """
    path, overrides = entry_file(name), rename_overrides(overrides)
    if path.parent == CONFIGS / "entry":
        return rename_settings(compose(f"entry/{name}", overrides))
    return rename_settings(compose(name, overrides, path.parent))


def compose(path: str, overrides: Sequence[str] = (), folder: Path | None = None) -> dict[str, Any]:
    """A file of ``configs``, without its suffix, composed into plain containers.

    Args:
        path: relative to ``configs``, or to `folder` if one is given.
        overrides: Hydra's, such as ``solver.base_lr=0.02``.
        folder: another folder of configs, searched before ``configs``.
    """
    where = [] if folder is None else [f'hydra.searchpath=["file://{CONFIGS}"]']
    main = str(folder or CONFIGS)
    with _ONE_AT_A_TIME, _hydra_restored(), initialize_config_dir(main, version_base=None):
        try:
            config = hydra_compose(path, overrides=[*where, *overrides])
        except HydraException as error:
            name = path.rpartition("/")[2]
            raise ValueError(f"{name}: {' '.join(str(error).split())}") from None
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def build_detector(
    config: Mapping[str, Any], num_classes: int | None = None, empty: bool = False
) -> Detector:
    """A detector from an entry's configuration.

    Args:
        config: as `compose_entry` returns it.
        num_classes: see `zoo.build`.
        empty: the network's tensors are on torch's meta device, with shapes but without values:
            nothing is initialised that loaded weights replace.
    """
    import torch
    from hydra.utils import instantiate

    import fcos
    from fcos.train.checkpoint import detector_settings

    classes = config["classes"]
    if num_classes is not None and num_classes != len(classes):
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, not {num_classes}")
        classes = [str(label) for label in range(num_classes)]
    with torch.device("meta") if empty else nullcontext(), _one_line():
        backbone = instantiate(config["backbone"], _convert_="all")
        pyramid = instantiate(
            config["pyramid"],
            in_channels=backbone.channels,
            in_strides=backbone.strides,
            _convert_="all",
        )
        head = fcos.Head(pyramid.strides, len(classes), pyramid.channels, **config["head"])
    resize = {"shortest": fcos.ShortestSide, "longest": fcos.LongestSide}[config["resize"]["side"]]
    rule = {key: value for key, value in config["resize"].items() if key != "side"}
    detector = fcos.Detector(
        backbone,
        pyramid,
        head,
        normalizer=fcos.ImageNormalizer(**config["images"]),
        resize=resize(**rule),
        assigner=fcos.TargetAssigner(**config["assigner"]),
        loss=fcos.Loss(**config["loss"]),
        decoder=fcos.Decoder(**config["decoder"]),
        classes=classes,
        **config.get("detector", {}),
    )
    detector.settings = detector_settings(config, classes)
    return detector


@contextmanager
def _one_line() -> Iterator[None]:
    """Say in one line why a backbone or pyramid could not be built."""
    try:
        yield
    except InstantiationException as error:
        raise ValueError(" ".join(str(error.__cause__ or error).split())) from error


@contextmanager
def _hydra_restored() -> Iterator[None]:
    """Leave Hydra as it was, for applications that run in it themselves."""
    running, version = GlobalHydra.instance().hydra, VersionBase.instance()
    base = version.getbase()
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = running
        version.version_base = base  # `setbase` does not accept None
