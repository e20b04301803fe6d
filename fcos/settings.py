"""Settings checked against the signatures of what they are passed to, before anything starts."""

from __future__ import annotations

import difflib
import inspect
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from textwrap import shorten
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails
from typing_extensions import NotRequired, TypedDict

# What of a run's configuration makes the detector; the rest is about its training.
DETECTOR_SETTINGS = (
    *("family", "backbone", "pyramid", "head", "images", "resize"),
    *("assigner", "loss", "decoder", "detector", "classes"),
)


def check(
    function: Callable[..., Any], values: Any, where: str, given: Collection[str] = ()
) -> None:
    """Check that settings can be the arguments of a class or a function.

    Names, types, the words of a `Literal` and the ranges of an `Annotated` are those of its
    signature.

    Args:
        function: what the settings are passed to.
        values: the settings, as YAML gives them.
        where: the section of the configuration that they stand in, such as "decoder".
        given: the arguments that are not settings.

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
        types: by the name of the setting.
        values, where: see `check`.
        open_ended: whether there may be other settings.

    Raises:
        ValueError: as of `check`.
    """
    make_schema: Any = TypedDict
    schema = make_schema(where or "settings", dict(types))
    # Strict, so that 1 is not a boolean; as JSON, in which a list may be a tuple.
    schema.__pydantic_config__ = ConfigDict(
        extra="allow" if open_ended else "forbid", strict=True, allow_inf_nan=False
    )
    try:
        TypeAdapter(schema).validate_json(json.dumps(values))
    except ValidationError as error:
        wrong: dict[str, list[ErrorDetails]] = defaultdict(list)
        for detail in error.errors():  # of a union, one for each of its members
            wrong[".".join([where, *map(str, detail["loc"][:1])]).strip(".")].append(detail)
        messages = [_explain(key, details, types) for key, details in wrong.items()]
        raise ValueError("; ".join(messages)) from None


def detector_settings(config: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """What of a run's configuration makes the detector, with the classes that it has."""
    chosen = {key: value for key, value in config.items() if key in DETECTOR_SETTINGS}
    return {**chosen, "classes": list(classes)}


def nearest(name: str, names: Collection[str]) -> str:
    """A hint at the nearest of some names, or at all of them."""
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
