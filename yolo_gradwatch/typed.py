"""What was read from JSON: as frozen records, and as text that a terminal can show."""

from __future__ import annotations

from dataclasses import MISSING, fields
from functools import cache
from types import UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")


def built(kind: type[T], raw: object) -> T:
    """A record from its JSON form, in which tuples are lists.

    Args:
        kind: A dataclass whose fields are numbers, texts, and tuples and tables of these.
        raw: A table with its fields. Other names in it are ignored, and a field with a default may
            be missing, so that files of later and earlier versions can be read.

    Raises:
        ValueError: A field without a default is missing, or one is of another type: which.
    """
    if not isinstance(raw, dict):
        raise ValueError(f"{raw!r} is no table of names and values")  # noqa: TRY004
    hints = _hints(cast("type", kind))
    values = {}
    for field in fields(kind):  # type: ignore[arg-type]
        if field.name not in raw and field.default is not MISSING:
            continue
        if field.name not in raw:
            if field.default is MISSING and field.default_factory is MISSING:
                raise ValueError(f"{field.name!r} is missing")
            continue
        values[field.name] = _frozen(raw[field.name])
        if not _fits(values[field.name], hints[field.name]):
            raise ValueError(f"{field.name!r} is of another type")
    return kind(**values)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def printable(value: Any) -> Any:
    """A value from JSON in whose texts "?" stands for what would steer a terminal."""
    if isinstance(value, str):
        return "".join(sign if sign.isprintable() else "?" for sign in value)
    if isinstance(value, list):
        return [printable(one) for one in value]
    if isinstance(value, dict):
        return {printable(name): printable(one) for name, one in value.items()}
    return value


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a type as written in an annotation."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value in args
    if origin in {Union, UnionType}:
        return any(_fits(value, one) for one in args)
    expected: Any = (int, float) if kind is float else origin or kind
    if isinstance(value, bool) or not isinstance(value, expected):
        return False
    if origin is tuple:
        kinds = args[:1] * len(value) if args[-1] is ... else args
        return len(kinds) == len(value) and all(map(_fits, value, kinds))
    if origin is dict:
        return all(_fits(one, args[1]) for one in value.values())
    return True
