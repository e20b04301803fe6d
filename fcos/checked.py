"""Hold what is given to a class directly to its signature, as settings are held to it."""

from __future__ import annotations

import inspect
import operator
from functools import cache, wraps
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Class = TypeVar("Class", bound=type)
LIMITS = {"gt": operator.gt, "ge": operator.ge, "lt": operator.lt, "le": operator.le}


def checked(cls: Class) -> Class:
    """Class decorator: refuse words and numbers that the constructor's annotations exclude.

    Those are the words of a `Literal` and the ranges of an `Annotated`. Python takes any others,
    and a detector would then compute something else without a message. It takes microseconds.

    Raises:
        ValueError: on construction, see `fcos.settings.check`.
    """
    construct = cls.__init__  # type: ignore[misc]
    names = list(inspect.signature(construct).parameters)[1:]  # without self
    hints = cache(lambda: get_type_hints(construct, include_extras=True))

    @wraps(construct)
    def checked_init(self: Any, *args: Any, **options: Any) -> None:
        given = {**dict(zip(names, args, strict=False)), **options}
        wrong = {name: each for name, each in given.items() if not _fits(hints().get(name), each)}
        if wrong:
            from fcos.settings import check_types  # whose libraries nothing else here needs

            check_types({name: hints()[name] for name in wrong}, wrong, cls.__name__)
        construct(self, *args, **options)

    cls.__init__ = checked_init  # type: ignore[misc]
    return cls


def _fits(hint: Any, value: Any) -> bool:
    kind = get_origin(hint)
    if kind is Literal:
        return value in get_args(hint)
    if kind in (Union, UnionType):
        return any(_fits(member, value) for member in get_args(hint))
    if kind is Annotated:
        try:
            return all(
                holds(value, getattr(each, name))
                for each in get_args(hint)[1:]
                for name, holds in LIMITS.items()
                if getattr(each, name, None) is not None
            )
        except TypeError:  # not a number
            return False
    return value is None if hint is NoneType else True
