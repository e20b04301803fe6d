"""Compose an entry's configuration by Hydra with a user's overrides, and build its detector.

Torch is imported only to build a detector, so that commands that only show facts start fast.
"""

from __future__ import annotations

import os
import pydoc
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException, InstantiationException
from hydra.utils import get_class
from hydra.version import VersionBase
from omegaconf import OmegaConf

from zoo.registry import CONFIGS, entry_file

if TYPE_CHECKING:
    from fcos import Detector

_ONE_AT_A_TIME = threading.Lock()  # Hydra's state is global

# Settings whose values are plain text, since paths may contain characters of Hydra's grammar.
TEXTS = (
    *("data.root", "data.train", "data.train_images", "data.test", "data.test_images"),
    *("init.checkpoint", "init.backbone", "run.folder"),
)
FOLDERS = ("hydra.sweep.dir", "hydra.run.dir", "folder", "weights_folder")
# Names of settings in earlier versions, which still work.
RENAMED = {
    "data.group": "data.aspect_ratio_group_size",
    "loss.images_together": "loss.normalizer_group",
    "run.backbone": "init.backbone",
    "run.weights": "init.checkpoint",
    "solver.fused": "solver.fused_optimizer",
    "solver.nan": "solver.on_nonfinite",
    "solver.recompute": "solver.activation_checkpointing",
}


def compose_entry(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Compose an entry's whole configuration into plain containers, with Hydra's `overrides`.

    Settings may have the names of earlier versions, see `RENAMED`.

    Raises:
        ValueError: an override is malformed, or of a setting that does not exist.
    """
    path = entry_file(name)
    words = [_addable(word) for word in quoted(overrides)]
    own = path.parent != CONFIGS / "entry"
    config = compose(name, words, path.parent) if own else compose(f"entry/{name}", words)
    return rename_settings(config)


def compose(path: str, overrides: Sequence[str] = (), folder: Path | None = None) -> dict[str, Any]:
    """Compose a file of ``configs`` into plain containers.

    Args:
        path: the file without its suffix, relative to ``configs`` or to `folder`.
        overrides: overrides of Hydra, such as ``solver.base_lr=0.02``.
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
            text = text.partition(" Config search path:")[0]
            raise ValueError(f"{name}: {text}") from None
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def quoted(overrides: Sequence[str], sweep: bool = False) -> list[str]:
    """Convert a user's overrides for Hydra: to the present names, with quotes around texts.

    `data=PATH` sets both the training and the test set, if the dataset has a split to evaluate on.

    Args:
        overrides: such as ``solver.base_lr=0.02`` or ``data.train=my, set/train.json``.
        sweep: whether commas and brackets in a text, unless it is an existing path, make several
            values, and ``${...}`` stands for another setting.
    """
    words: list[str] = []
    dataset: list[str] = []
    for override in overrides:
        prefix, old, rest = re.fullmatch(r"([+~]*)([^=]*)(.*)", override, re.DOTALL).groups()  # type: ignore[union-attr]
        key, value = RENAMED.get(old, old), _unquoted(rest[1:])
        if key == "data" and rest:
            dataset = [f"{name}={_quote(path)}" for name, path in _dataset(value).items()]
        elif rest and key in (*TEXTS, *FOLDERS):
            several = r"\$\{|[,(]" if key in TEXTS else r"\$\{"
            as_given = sweep and re.search(several, value) and not Path(value).exists()
            words.append(key + rest if as_given else f"{key}={_quote(value)}")
        else:
            words.append(prefix + key + rest)
    return [*dataset, *words]


def rename_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Give the settings of a configuration their present names.

    A setting with an old name replaces the default of the present one.
    """
    renamed = {k: dict(v) if isinstance(v, Mapping) else v for k, v in config.items()}
    for old, new in RENAMED.items():
        section, _, key = old.partition(".")
        if key in (renamed.get(section) or {}):
            new_section, _, new_key = new.partition(".")
            renamed.setdefault(new_section, {})[new_key] = renamed[section].pop(key)
    return renamed


def _quote(text: str) -> str:
    """Quote a text for Hydra's grammar, in which an empty one stands for null."""
    if text in ("", "null"):
        return "null"
    return str(QuotedString(text.replace("${", r"\${"), Quote.single).with_quotes())


def _unquoted(text: str) -> str:
    """Remove the quotes that a user put around a text for Hydra."""
    match = None if Path(text).exists() else re.fullmatch(r"(['\"])(.*)\1", text, re.DOTALL)
    return match[2] if match else text


def _dataset(path: str) -> dict[str, str]:
    """Return the settings that `data=PATH` stands for: the splits to train and to evaluate on.

    Raises:
        FileNotFoundError: there is no dataset.
        ValueError: the names of its splits do not show which is for training.
    """
    from fcos.data.formats import choose_split, find_splits

    splits = find_splits(path)
    path = os.path.join(".", path)  # it may have the name of a known dataset
    training, test = (choose_split(path, splits, training=which) for which in (True, False))
    return {"data.train": path, "data.test": path if test != training else ""}


def _addable(override: str) -> str:
    """Let an override set what the configuration leaves at its default.

    Hydra would require a "+" there, even before a misspelt name. Whether a setting exists is
    checked later, against the signature of the class or function that takes it.
    """
    key, _, value = override.lstrip("+").partition("=")
    inner = "." in key or value.startswith("{")  # not a choice in a group, such as the backbone
    plain = re.fullmatch(r"[\w.]+", key) and inner and not key.startswith("hydra.")
    return f"++{override.lstrip('+')}" if plain and "=" in override else override


def build_detector(
    config: Mapping[str, Any], num_classes: int | None = None, empty: bool = False
) -> Detector:
    """Build a detector from an entry's configuration.

    Args:
        config: the configuration, see `compose_entry`.
        num_classes: see `zoo.build`.
        empty: leave the network's tensors on torch's meta device, without values, if loaded weights
            will replace them.
    """
    import torch
    from hydra.utils import instantiate

    import fcos
    from fcos.settings import detector_settings

    check_detector(config)
    classes = config["classes"]
    if num_classes is not None and num_classes != len(classes):
        if not isinstance(num_classes, int) or num_classes < 1:
            raise ValueError(f"num_classes must be an integer of at least 1, not {num_classes!r}")
        classes = [str(label) for label in range(num_classes)]
    try:
        with torch.device("meta") if empty else nullcontext():
            backbone = instantiate(config["backbone"], _convert_="all")
            inputs = {"in_channels": backbone.channels, "in_strides": backbone.strides}
            pyramid = instantiate(config["pyramid"], **inputs, _convert_="all")
            head = fcos.Head(pyramid.strides, len(classes), pyramid.channels, **config["head"])
    except InstantiationException as error:
        raise ValueError(" ".join(str(error.__cause__ or error).split())) from error
    levels, ranges = len(pyramid.strides), len(config["assigner"]["size_ranges"])
    if levels != ranges:
        raise ValueError(f"assigner.size_ranges has {ranges} ranges for {levels} levels")
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
    """Check every setting of the detector.

    Raises:
        ValueError: one line that names a wrong setting, its value and what is allowed.
    """
    import backbones
    import fcos
    from fcos.settings import check, check_names, check_types

    check_names(config)
    check_types({"classes": list[str]}, {"classes": config.get("classes")})
    known = [name for name in modules_of(backbones) if name != "backbones.StagedBackbone"]
    modules = {
        "backbone": (*known, *_own_module(config.get("backbone"))),
        "pyramid": ("fcos.FPN", "fcos.HRFPN"),
    }
    for key, names in modules.items():
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


def modules_of(package: ModuleType) -> list[str]:
    """Return the full names of the modules that a package exports, such as "fcos.FPN"."""
    import torch

    exported = {name: getattr(package, name) for name in package.__all__}
    return [
        f"{package.__name__}.{name}"
        for name, value in exported.items()
        if isinstance(value, type) and issubclass(value, torch.nn.Module)
    ]


def _own_module(backbone: Any) -> list[str]:
    """Return the name of an entry's backbone, if it is a module, of whichever package.

    Checkpoints may only name known ones, see `zoo.checkpoint.Checkpoint.check_config`.
    """
    import torch

    target = backbone.get("_target_") if isinstance(backbone, Mapping) else None
    value = pydoc.locate(target) if isinstance(target, str) else None
    return [str(target)] if isinstance(value, type) and issubclass(value, torch.nn.Module) else []


@contextmanager
def _hydra_restored() -> Iterator[None]:
    """Restore Hydra's state afterwards, for applications that use Hydra themselves."""
    running, version = GlobalHydra.instance().hydra, VersionBase.instance()
    base = version.getbase()
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = running
        version.version_base = base  # `setbase` does not accept None
