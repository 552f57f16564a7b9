"""What a loaded target is, as far as it shows: which command serves it, for somebody who has named another. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import FunctionType, MethodType
from typing import Any, Final, Literal

Interface = Literal["asgi", "wsgi", "handle", "streams", "factory", "aiohttp", "tornado", "worker", "made", "unknown"]

REMEDIES: Final[Mapping[Interface, str]] = {
    "asgi": "is an ASGI application; prefork asgi {target} serves it",
    "wsgi": "is a WSGI application; prefork wsgi {target} serves it",
    "handle": "takes a connection and an address; prefork serve {target} serves it",
    "streams": "is a coroutine function; prefork serve {target} --worker-class asyncio serves one of reader and writer",
    "factory": "is called without arguments, as a function that makes an application is; give '{target}()'",
    "worker": "is a Worker class; prefork serve {target} serves it",
    "made": "is a Worker that has been made; name its class, of which each process makes one",
    "aiohttp": "is an aiohttp application; prefork serve {target} --worker-class aiohttp serves it",
    "tornado": "is a tornado application; prefork serve {target} --worker-class tornado serves it",
}
"""How each is served: what follows its name."""

_CONNECTIONS: Final = frozenset({"connection", "conn", "sock", "socket", "client", "connection_"})
_ASGI: Final = 3  # positional arguments: scope, receive, send
_VARARGS: Final = 0x04  # CO_VARARGS, and CO_COROUTINE: what inspect says of a code object's flags
_COROUTINE: Final = 0x80
_PAIR: Final = 2  # connection and address, reader and writer


def interface_of(found: Any) -> Interface:
    """What a loaded target is.

    Args:
        found: The object. One that says nothing of itself is "unknown", and so is each class but a Worker's.
    """
    kind = type(found)
    home = kind.__module__.partition(".")[0]
    if home in {"aiohttp", "tornado"} and kind.__name__ == "Application":
        return "aiohttp" if home == "aiohttp" else "tornado"
    if hasattr(found, "__prefork__"):
        return "worker" if isinstance(found, type) else "made"
    if isinstance(found, type) or not callable(found):
        return "unknown"
    plain = _plain(found)
    names, coroutine = _inspected(found) if plain is None else _read(*plain)
    if coroutine:
        return "asgi" if names is None or len(names) == _ASGI else "streams" if len(names) == _PAIR else "unknown"
    if callable(getattr(found, "wsgi_app", None)):
        return "wsgi"
    return "unknown" if names is None else _by_arguments(names)


def _by_arguments(names: list[str]) -> Interface:
    if not names:
        return "factory"
    if len(names) != _PAIR:
        return "unknown"
    if names[1] == "start_response" or names[0] == "environ":
        return "wsgi"
    return "handle" if names[0].lstrip("_") in _CONNECTIONS else "unknown"


def _plain(found: Any) -> tuple[FunctionType, int] | None:
    """The function of Python's behind a callable, and how many of its arguments are given; None where that hides more.

    Each worker asks, and inspect, which knows all there is, takes longer to import than many an application.
    """
    function, given = found, 0
    if isinstance(found, MethodType):
        function, given = found.__func__, 1
    elif not isinstance(found, FunctionType) and not hasattr(type(found), "__get__"):
        function, given = type(found).__call__, 1
    return (
        None
        if type(function) is not FunctionType or vars(function) or hasattr(found, "__signature__")
        else (function, given)
    )


def _read(function: FunctionType, given: int) -> tuple[list[str] | None, bool]:
    """As :func:`_inspected`, of a plain function of which some arguments are given."""
    code = function.__code__
    needed = code.co_argcount - len(function.__defaults__ or ())
    names = None if code.co_flags & _VARARGS else list(code.co_varnames[given:needed])
    return names, bool(code.co_flags & _COROUTINE)


def _inspected(found: Any) -> tuple[list[str] | None, bool]:
    """The names of the arguments that have to be given, None where they can't be told; whether it is a coroutine's."""
    import inspect

    call = found if inspect.isroutine(found) else type(found).__call__
    return _positional(found), inspect.iscoroutinefunction(call)


def _positional(found: Any) -> list[str] | None:
    import inspect

    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(one.kind is one.VAR_POSITIONAL for one in parameters):
        return None
    return [
        one.name
        for one in parameters
        if one.kind in {one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD} and one.default is one.empty
    ]


def meant(found: Any, target: str, *served: Interface) -> str:
    """Why a command that serves something else can't serve a target, and which one does; "" when it can, or may.

    Args:
        found: The loaded target.
        target: Its name.
        served: What the command serves.
    """
    interface = interface_of(found)
    if interface == "unknown" or interface in served:
        return ""
    return f"{target} {REMEDIES[interface].format(target=target)}"
