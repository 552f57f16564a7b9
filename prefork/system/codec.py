"""Plain data and the JSON that carries it between processes: records go out as objects and are read back as typed.

Reading trusts nothing: each value has the type that its field declares, or it is said where it has not. What a class
may hold is what JSON does: other such classes, text, numbers, booleans, None beside one of these, a ``Literal``, tuples
(of one kind and any length, or of some kinds in this order), and dictionaries by text. Pure.
"""

from __future__ import annotations

import functools
import json
import types
import typing
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeVar

from prefork.system.record import Record, fields_of

T = TypeVar("T")

_NONE: Final = type(None)
_BEYOND_FLOATS: Final = 1 << 1023


class DecodeError(ValueError):
    """Data that is not what was expected; the text says where."""


def encoded(thing: object) -> str:
    """``thing``, a record or what JSON knows, as JSON in one line.

    Raises:
        TypeError: it, or something in it, has no form in JSON.
    """
    return json.dumps(thing, default=_as_object, separators=(",", ":"))


def parsed(text: str | bytes) -> object:
    """What a JSON text says, with no type yet.

    Raises:
        DecodeError: it is not JSON in UTF-8.
    """
    try:
        return json.loads(text if isinstance(text, str) else text.decode())
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"this is not JSON in UTF-8: {error}") from None


def parsed_object(text: str | bytes) -> dict[str, Any]:
    """The members of the object that a JSON text is, with no types yet.

    Raises:
        DecodeError: it is not JSON in UTF-8, or no object.
    """
    found = parsed(text)
    if not isinstance(found, dict):
        raise DecodeError(f"this is JSON, but {type(found).__name__} where an object was expected")
    return found


def read(kind: type[T], data: object, *, exact: bool = False) -> T:
    """Make a record from what :func:`parsed` gave.

    Args:
        kind: the class.
        data: a JSON object.
        exact: whether it has the names of the class and no others. If not, names that the class doesn't have are left
            out, and those that are missing have their defaults: so one release reads what another has written.

    Raises:
        DecodeError: something is of another type than the class says, or is missing, or too much.
    """
    made = _read(kind, data, kind.__name__, exact)
    return typing.cast("T", made)


def _as_object(thing: Any) -> dict[str, object]:
    if not isinstance(thing, Record):
        raise TypeError(f"{type(thing).__name__} has no form in JSON")
    return {name: getattr(thing, name) for name in fields_of(type(thing))}


@functools.cache
def types_of(kind: type) -> Mapping[str, Any]:
    """The type of each field of a record, by its name."""
    hints = typing.get_type_hints(kind)
    return {name: hints[name] for name in fields_of(kind)}


def _read(kind: Any, data: object, where: str, exact: bool) -> object:  # one return for each kind
    if isinstance(kind, type) and issubclass(kind, Record):
        return _read_fields(kind, data, where, exact)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in {typing.Union, types.UnionType}:
        if data is None:
            return None
        (kind,) = (argument for argument in arguments if argument is not _NONE)
        return _read(kind, data, where, exact)
    if origin is Literal and any(data == one and type(data) is type(one) for one in arguments):
        return data
    if origin is tuple and isinstance(data, list):
        return _read_tuple(arguments, data, where, exact)
    if origin is dict and isinstance(data, dict):
        return {str(name): _read(arguments[1], value, where, exact) for name, value in data.items()}
    if kind is float and type(data) is int and abs(data) < _BEYOND_FLOATS:
        return float(data)
    if origin is None and type(data) is kind:
        return data
    raise _wrong(data, getattr(kind, "__name__", str(kind)), where)


def _read_tuple(kinds: tuple[Any, ...], data: list[object], where: str, exact: bool) -> tuple[object, ...]:
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(_read(kinds[0], item, where, exact) for item in data)
    if len(kinds) != len(data):
        raise DecodeError(f"{where}: {len(data)} values where {len(kinds)} were expected")
    return tuple(_read(kind, item, where, exact) for kind, item in zip(kinds, data, strict=True))


def _read_fields(kind: type[Record], data: object, where: str, exact: bool) -> object:
    if not isinstance(data, dict):
        raise _wrong(data, "an object", where)
    names = fields_of(kind)
    if exact and (unknown := data.keys() - set(names)):
        raise DecodeError(f"{where}: nobody knows {ascii(min(unknown))[:40]}")
    hints = types_of(typing.cast("type", kind))  # mypy takes the hash of records for that of their classes
    given = {name: _read(hints[name], data[name], f"{where}.{name}", exact) for name in names if name in data}
    try:
        if exact and len(given) < len(names):
            raise TypeError
        return kind(**given)
    except TypeError:
        raise DecodeError(f"{where}: something is missing") from None


def _wrong(data: object, expected: str, where: str) -> DecodeError:
    return DecodeError(f"{where}: {type(data).__name__} where {expected} was expected")
