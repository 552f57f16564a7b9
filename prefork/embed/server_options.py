"""The options of somebody else's server: their names and kinds, read from its own constructors and configuration."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Final

_PLAIN: Final = (bool, int, float, str)  # what a text can say; anything else was made by a program, which knows why
_WORDS: Final[Mapping[object, str]] = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "a text",
}


def parameters(*functions: Callable[..., Any]) -> dict[str, object]:
    """What functions take, beside what takes any: the options of a server whose constructors these are.

    Returns:
        The kind of each by its name: what it is annotated with, or else what its default is; `typing.Any` where
        neither tells.
    """
    return {
        one.name: _kind(one.annotation, one.default, _globals(function))
        for function in functions
        for one in inspect.signature(function).parameters.values()
        if one.kind not in {one.VAR_POSITIONAL, one.VAR_KEYWORD} and one.name != "self"
    }


def constructors(kind: Any) -> list[Callable[..., Any]]:
    """The constructors of a class, inherited ones too, of which each hands on what it doesn't know."""
    return [one.__init__ for one in kind.__mro__[:-1] if "__init__" in vars(one)]


def attributes(kind: type, *, casts: bool = False) -> dict[str, object]:
    """The public attributes of a class: the options of a server whose configuration it is.

    Args:
        kind: The class.
        casts: Whether it makes what it needs of whatever it is given, and raises when it can't.

    Returns:
        As `parameters` has it.
    """
    annotated = inspect.get_annotations(kind)
    names = vars(__import__(kind.__module__, fromlist=[""]))
    return {
        name: Any if casts else _kind(annotated.get(name, inspect.Parameter.empty), getattr(kind, name), names)
        for name in dir(kind)
        if not name.startswith("_")
    }


def misfit(value: object, kind: object) -> str:
    """What is to be given in place of ``value``, or "" where it is as good as can be told. Pure.

    Args:
        value: Of an option.
        kind: As `parameters` has it.
    """
    if type(value) not in _PLAIN:  # None among others, which servers take for many a thing, annotated or not
        return ""
    allowed = _alternatives(kind)
    if any(_fits(value, one) for one in allowed):
        return ""
    words = [_words(one) for one in allowed]
    return " or ".join(dict.fromkeys(word for word in words if word)) or "it in a program of your own"


def _kind(annotation: object, default: object, names: Mapping[str, Any]) -> object:
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, dict(names))  # as typing.get_type_hints does, for all or none
        except Exception:  # noqa: BLE001  # what it names is there for type checkers alone, or anything else
            annotation = inspect.Parameter.empty
    if annotation is not inspect.Parameter.empty:
        return annotation
    if isinstance(default, bool | str | list | dict | tuple | set | types.FunctionType):
        return type(default)
    return float if isinstance(default, int | float) else Any


def _globals(function: Callable[..., Any]) -> Mapping[str, Any]:
    maker = vars(function).get("__init__", function) if isinstance(function, type) else function
    found: Mapping[str, Any] = getattr(inspect.unwrap(maker), "__globals__", {})
    return found


def _alternatives(kind: object) -> list[object]:
    origin = typing.get_origin(kind)
    if origin in {typing.Union, types.UnionType}:
        return [one for part in typing.get_args(kind) for one in _alternatives(part)]
    return _alternatives(typing.get_args(kind)[0]) if origin is typing.Annotated else [kind]


def _fits(value: object, kind: object) -> bool:
    """Whether a plain value is one of a kind that is no union."""
    origin = typing.get_origin(kind)
    if origin is typing.Literal:
        return value in typing.get_args(kind)
    if kind is Any or not isinstance(origin or kind, type):  # what can't be told apart
        return True
    if kind is bool:
        return isinstance(value, bool) or value in (0, 1)
    if isinstance(value, bool) and kind is not object:
        return False
    if kind in {int, float}:  # who says int most often means either
        return isinstance(value, int | float)
    return kind in type(value).__mro__


def _words(kind: object) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(map(str, typing.get_args(kind)))
    return _WORDS.get(kind, "")
