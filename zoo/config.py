"""An entry's configuration: composed by Hydra, turned into a detector.

Torch is imported only to build a detector, so that commands that show facts start fast.
"""

from __future__ import annotations

import pydoc
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, InstantiationException
from hydra.utils import get_class
from hydra.version import VersionBase
from omegaconf import OmegaConf

from zoo.overrides import rename_overrides, rename_settings, set_texts, without_texts
from zoo.registry import CONFIGS, entry_file

if TYPE_CHECKING:
    from fcos import Detector

_ONE_AT_A_TIME = threading.Lock()  # Hydra's state is the process's


def compose_entry(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """An entry's whole configuration as plain containers, with Hydra `overrides` applied.

    Settings may have the names of earlier versions, see `zoo.overrides.RENAMED`.

    Raises:
        ValueError: an override of a setting that does not exist, or a malformed one.
    """
    path = entry_file(name)
    plain, texts = without_texts(rename_overrides(overrides))
    own = path.parent != CONFIGS / "entry"
    config = compose(name, plain, path.parent) if own else compose(f"entry/{name}", plain)
    return set_texts(rename_settings(config), texts)


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
            if unknown := re.match(r"Could not override '([^']+)'", str(error)):
                from fcos.settings import nearest

                raise ValueError(
                    f"{unknown[1]} is not a setting: "
                    f"{nearest(unknown[1], list(hydra_compose(path, overrides=where)))}"
                ) from None
            name = path.rpartition("/")[2]
            text = re.sub(r" See https://hydra\S+ for details", "", " ".join(str(error).split()))
            raise ValueError(f"{name}: {text}") from None
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
    from fcos.settings import detector_settings

    check_detector(config)
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
        levels, ranges = len(pyramid.strides), len(config["assigner"]["size_ranges"])
        if levels != ranges:
            raise ValueError(f"assigner.size_ranges has {ranges} ranges for {levels} levels")
        head = fcos.Head(pyramid.strides, len(classes), pyramid.channels, **config["head"])
    rule = dict(config["resize"])
    resize = {"shortest": fcos.ShortestSide, "longest": fcos.LongestSide}[rule.pop("side")]
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


def check_detector(config: Mapping[str, Any]) -> None:
    """Check every setting that makes the detector.

    Raises:
        ValueError: one line that names a wrong setting, its value and what is allowed.
    """
    import fcos
    from fcos.settings import check, check_types

    check_types({"classes": list[str]}, {"classes": config.get("classes")})
    for key, names in _modules().items():
        if not (key == "backbone" and _is_own(config.get(key))):
            check_types({"_target_": Literal[names]}, config.get(key), key, open_ended=True)
        arguments = dict(config[key])
        module = get_class(arguments.pop("_target_"))
        check(module, arguments, key, given=("in_channels", "in_strides"))
    check(fcos.Head, config.get("head"), "head", given=("strides", "num_classes", "channels"))
    check(fcos.ImageNormalizer, config.get("images"), "images")
    sides = Literal["shortest", "longest"]
    check_types({"side": sides}, config.get("resize"), "resize", open_ended=True)
    rule = dict(config["resize"])
    resize = fcos.ShortestSide if rule.pop("side") == "shortest" else fcos.LongestSide
    check(resize, rule, "resize")
    check(fcos.TargetAssigner, config.get("assigner"), "assigner")
    check(fcos.Loss, config.get("loss"), "loss")
    check(fcos.Decoder, config.get("decoder"), "decoder")
    parts = ("backbone", "pyramid", "head", "normalizer", "resize", "assigner", "loss", "decoder")
    check(fcos.Detector, config.get("detector", {}), "detector", given=(*parts, "classes"))


def _is_own(backbone: Any) -> bool:
    """Whether an entry names an existing module as its backbone, also one of its author's.

    Those in checkpoints may name only known ones, see `zoo.checkpoint.Checkpoint.check_config`.
    """
    import torch

    target = backbone.get("_target_") if isinstance(backbone, Mapping) else None
    found = pydoc.locate(target) if isinstance(target, str) else None
    return isinstance(found, type) and issubclass(found, torch.nn.Module)


def _modules() -> dict[str, tuple[str, ...]]:
    """What each `_target_` may name of this project's modules."""
    import torch

    import backbones
    import fcos

    return {
        key: tuple(
            f"{package.__name__}.{value.__name__}"
            for value in candidates
            if isinstance(value, type) and issubclass(value, torch.nn.Module)
            if value is not backbones.StagedBackbone
        )
        for key, package, candidates in (
            ("backbone", backbones, vars(backbones).values()),
            ("pyramid", fcos, (fcos.FPN, fcos.HRFPN)),
        )
    }


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
