"""Checks of a run's settings, before anything starts.

The settings of the detector are checked against the signatures that they are passed to, those of
training against the sections below, whose defaults are in ``configs/training/defaults.yaml``.
"""

from __future__ import annotations

import difflib
import inspect
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import Annotated, Any, Literal, get_type_hints

from annotated_types import Interval
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails
from typing_extensions import NotRequired, TypedDict

from backbones.ranges import Count, CountOrZero, NotNegative, Positive, Share

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
OnNonFinite = Literal["stop", "skip"]
WarmupMethod = Literal["linear", "constant"]
LoggerName = Literal["tensorboard", "wandb", "mlflow"]
Scale = Annotated[float, Interval(gt=0, le=1)]

# The keys of a run's configuration that define the detector; the others define its training.
DETECTOR_SETTINGS = (
    *("family", "backbone", "pyramid", "head", "images", "resize"),
    *("assigner", "loss", "decoder", "detector", "classes"),
)
# Other keys that describe the model.
FACTS = ("repository", "source", "license", "permissive", "weights", "imagenet", "category_ids")


@dataclass
class Solver:
    """The optimiser, and how a step is computed."""

    batch: Count
    base_lr: NotNegative
    scale_lr: bool
    momentum: Annotated[float, Interval(ge=0, lt=1)]
    weight_decay: NotNegative
    norm_weight_decay: NotNegative | None
    bias_lr_factor: NotNegative
    bias_weight_decay: NotNegative | None
    gamma: Positive
    warmup: dict[str, Any]
    clip_norm: Positive | None
    accumulate: Count | Literal["auto"]
    precision: Precision
    channels_last: bool
    compile: bool
    activation_checkpointing: bool
    fused_optimizer: bool | None
    ema: Annotated[float, Interval(gt=0, lt=1)] | None
    on_nonfinite: OnNonFinite


@dataclass
class Warmup:
    """The first iterations, in which the learning rate grows."""

    method: WarmupMethod
    iterations: CountOrZero
    factor: Share


@dataclass
class Schedule:
    """How long to train, and when the learning rate drops; in iterations or else in epochs."""

    iterations: Count | None
    steps: list[CountOrZero] | None
    epochs: Positive | None = None
    step_epochs: list[NotNegative] | None = None


@dataclass
class Data:
    """The datasets, and how they are read."""

    root: str
    train: str
    train_images: str | None
    test: str | None
    test_images: str | None
    split: Annotated[float, Interval(gt=0, lt=1)] | None
    max_detections: Count | None
    plus_one: bool
    whole_pixels: bool
    keep_empty: bool
    skip_unreadable: bool
    flip: Share
    aspect_ratio_group_size: Count
    workers: CountOrZero
    shapes: dict[str, Any] | None = None


@dataclass
class Augmentation:
    """The three kinds of augmentation in ``configs/augmentation``."""

    shortest: list[Count] | None = None
    shortest_range: tuple[Count, Count] | None = None
    longest: Count | None = None
    square: Count | None = None
    scale_range: tuple[Scale, Scale] | None = None


@dataclass
class Init:
    """The weights that training starts from."""

    checkpoint: str | None
    backbone: str | None


@dataclass
class Run:
    """The folder of the run, its device and seed, and how often it logs, saves and evaluates."""

    folder: str | None
    seed: Annotated[int, Interval(ge=0, lt=2**63)]
    device: str | None
    log_every: Count
    checkpoint_every: Count
    keep: Count
    evaluate_every: Count | None
    loggers: list[LoggerName]


# Settings that belong to no section.
SINGLE = {"epochs": Positive | None, "freeze": Literal["backbone"] | None}
SECTIONS = {
    "solver": Solver,
    "schedule": Schedule,
    "data": Data,
    "augmentation": Augmentation,
    "init": Init,
    "run": Run,
}


def check_names(config: Mapping[str, Any]) -> None:
    """Refuse unknown sections, which nothing would read.

    Raises:
        ValueError: one line that names the section and the most similar known one.
    """
    names = (*DETECTOR_SETTINGS, *FACTS, *SECTIONS, *SINGLE)
    for key in config:
        if key not in names:
            raise ValueError(f"{key} is not a setting: {nearest(key, names)}")


def check_training(config: Mapping[str, Any]) -> None:
    """Check all settings of a run except those of the detector.

    Raises:
        ValueError: one line that names a wrong setting, its value and what is allowed.
    """
    from fcos.data import shapes  # which a detector does not need

    check_names(config)
    check_types(SINGLE, {key: config.get(key) for key in SINGLE})
    solver = config.get("solver")
    if isinstance(solver, Mapping) and "freeze" in solver:
        raise ValueError("solver.freeze is not a setting: did you mean freeze?")
    for key, section in SECTIONS.items():
        check(section, config.get(key), key)
    for name, drawn in (config["data"].get("shapes") or {}).items():
        check(shapes.write, drawn, f"data.shapes.{name}", given=("folder",))
    check(Warmup, config["solver"]["warmup"], "solver.warmup")
    schedule = config["schedule"]
    for key, other in (("iterations", "epochs"), ("steps", "step_epochs")):
        if schedule[key] is None and schedule.get(other) is None:
            raise ValueError(f"schedule.{key} and schedule.{other} are both null: set one of them")


def check(
    function: Callable[..., Any], values: Any, where: str, given: Collection[str] = ()
) -> None:
    """Check that settings can be arguments of a class or a function.

    Names, types, the words of a `Literal` and the ranges of an `Annotated` are those of its
    signature.

    Args:
        function: what the settings are passed to.
        values: the settings, as YAML gives them.
        where: the section of the configuration that holds them, such as "decoder".
        given: arguments that are not settings.

    Raises:
        ValueError: one line that names each wrong setting, its value and what is allowed.
    """
    source = function.__init__ if isinstance(function, type) else function  # type: ignore[misc]
    hints = get_type_hints(source, include_extras=True)
    fields: dict[str, Any] = {}
    open_ended = False
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            open_ended = True
        elif name not in given:
            hint = hints.get(name, Any)
            fields[name] = hint if parameter.default is parameter.empty else NotRequired[hint]
    check_types(fields, values, where, open_ended)


def check_types(
    types: Mapping[str, Any], values: Any, where: str = "", open_ended: bool = False
) -> None:
    """Check that settings have the given types.

    Args:
        types: the type of each setting, by name.
        values, where: see `check`.
        open_ended: whether there may be other settings.

    Raises:
        ValueError: see `check`.
    """
    make_schema: Any = TypedDict
    schema = make_schema(where or "settings", dict(types))
    # Strict, so that 1 is not a boolean; as JSON, in which a list may be a tuple.
    schema.__pydantic_config__ = ConfigDict(
        extra="allow" if open_ended else "forbid", strict=True, allow_inf_nan=False
    )
    try:
        TypeAdapter(schema).validate_json(json.dumps(values, default=repr))
    except ValidationError as error:
        wrong: dict[str, list[ErrorDetails]] = defaultdict(list)
        for detail in error.errors():  # a union has an error for each of its members
            wrong[".".join([where, *map(str, detail["loc"][:1])]).strip(".")].append(detail)
        messages = [_explain(key, details, types) for key, details in wrong.items()]
        raise ValueError("; ".join(messages)) from None


def detector_settings(config: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """Return the part of a run's configuration that defines the detector, with its classes."""
    chosen = {key: value for key, value in config.items() if key in DETECTOR_SETTINGS}
    return {**chosen, "classes": list(classes)}


def nearest(name: str, names: Collection[str]) -> str:
    """Return a hint at the most similar of some names, or at all of them."""
    close = difflib.get_close_matches(name, names, n=1) or [n for n in names if name in n]
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(sorted(names))}"


def _explain(key: str, details: list[ErrorDetails], types: Mapping[str, Any]) -> str:
    first = details[0]
    if first["type"] == "extra_forbidden":
        return f"{key} is not a setting: {nearest(str(first['loc'][0]), types)}"
    if first["type"] == "missing":
        return f"{key} is missing"
    value = shorten(json.dumps(first["input"]), 80)
    prefix = "Input should be "
    if not first["msg"].startswith(prefix):
        return f"{key}={value}: {first['msg']}"
    allowed = dict.fromkeys(detail["msg"].removeprefix(prefix) for detail in details)
    return f"{key}={value} should be {' or '.join(allowed)}"
