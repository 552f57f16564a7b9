"""What gunicorn's settings may be given: a value that gunicorn refuses is refused here, and by no other reading taken.

A file in Python gives values of any kind, and gunicorn has a validator for each setting (gunicorn/config.py, 27.0). A
number in a file is read as Python reads one (``0x10``, ``0o27``), so ``umask = "027"`` is an error; on the command line
it is a decimal one, but for two settings that take C's octal form. Pure, but for hooks that are named by a text.
"""

from __future__ import annotations

import importlib
import inspect
import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from prefork.migration.foreign_setting import ForeignSetting

_OCTAL: Final = frozenset({"umask", "control_socket_mode"})
_NETWORKS: Final = frozenset({"forwarded_allow_ips", "proxy_allow_ips", "uwsgi_allow_ips"})
_ACCOUNTS: Final = frozenset({"user", "group"})
_CLASSES: Final = frozenset({"worker_class", "logger_class"})
# What has a default that None is not: gunicorn takes it, and fails, or listens nowhere or is silent.
_NEVER_NONE: Final = frozenset(
    {"bind", "worker_class", "errorlog", "loglevel", "access_log_format", "logger_class", "syslog_addr", "chdir"}
    | {"reload_engine"}
)
_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "asgi_lifespan": ("auto", "on", "off"),
    "asgi_loop": ("auto", "asyncio", "uvloop"),
    "header_map": ("drop", "refuse", "dangerous"),
    "http2_cleartext": ("off", "prior-knowledge", "upgrade", "both"),
    "http_parser": ("auto", "fast", "python"),
    "proxy_protocol": ("off", "v1", "v2", "auto"),
    "reload_engine": ("auto", "poll", "inotify"),
}
_OTHER_WORDS: Final[Mapping[str, Mapping[object, str]]] = {
    "http2_cleartext": {False: "off", True: "prior-knowledge"},
    "proxy_protocol": {False: "off", True: "auto"}
    | {"false": "off", "0": "off", "none": "off", "true": "auto", "1": "auto"},
}
_RANGES: Final[Mapping[str, tuple[int, int]]] = {
    "http2_max_concurrent_streams": (1, 1 << 62),
    "http2_initial_window_size": (0, (1 << 31) - 1),
    "http2_max_frame_size": (1 << 14, (1 << 24) - 1),
}
# How many arguments a hook takes; another number is refused.
_ARITIES: Final[Mapping[str, tuple[int, ...]]] = {
    **dict.fromkeys(["on_starting", "on_reload", "when_ready", "pre_exec", "on_exit", "on_dirty_starting"], (1,)),
    **dict.fromkeys(["post_worker_init", "worker_int", "worker_abort", "dirty_worker_init"], (1,)),
    **dict.fromkeys(["pre_fork", "post_fork", "pre_request", "child_exit", "worker_exit", "dirty_post_fork"], (2,)),
    **dict.fromkeys(["ssl_context", "dirty_worker_exit"], (2,)),
    "nworkers_changed": (3,),
    "post_request": (2, 3, 4),
}


def validated(row: ForeignSetting, value: object, *, line: bool) -> Any:
    """A value, as gunicorn's validator of the setting has it; None where it is as if nobody had given it.

    Args:
        row: The setting.
        value: What a file says, or the text of a flag or variable.
        line: Whether it is such a text.

    Raises:
        ValueError: gunicorn refuses it, or takes it and can't serve with it; the message begins with the value.
    """
    if value is None and (row.name in _NEVER_NONE or row.takes in {"whole", "dict", "function"}):
        _refuse(value, "no value of it", "leave it out")
    special = _SPECIAL.get(row.name) or _BY_KIND[row.takes]
    return special(row, value, line)


def _refuse(value: object, what: str, remedy: str = "give one") -> NoReturn:
    raise ValueError(f"{value!r} is {what}; {remedy}")


def _text(_: ForeignSetting, value: object, line: bool) -> str | None:  # noqa: ARG001  # as all are called
    if value is None or isinstance(value, str):
        return value and value.strip()
    _refuse(value, "not a text")


def _whole(row: ForeignSetting, value: object, line: bool) -> int:
    number = int(value) if isinstance(value, int) else None
    if isinstance(value, str):
        octal = line and row.name in _OCTAL and re.match(r"0[0-9]", value)
        base = 8 if octal else 10 if line and row.name not in _OCTAL else 0
        try:
            number = int(value, base)
        except ValueError:
            if re.fullmatch(r"0[0-7]+", value):
                _refuse(value, "not a whole number", f"give 0o{value.lstrip('0')}, without quotes")
    if number is None:
        _refuse(value, "not a whole number")
    least, most = _RANGES.get(row.name, (0, 1 << 62))
    if not least <= number <= most:
        _refuse(value, "out of range", f"give {least} or more" if number < least else f"give {most} at the most")
    return number


def _bool(_: ForeignSetting, value: object, line: bool) -> bool | None:  # noqa: ARG001  # as above
    if value is None or isinstance(value, bool):
        return value
    found = {"true": True, "false": False}.get(value.lower().strip()) if isinstance(value, str) else None
    return _refuse(value, "neither True nor False") if found is None else found


def _list(row: ForeignSetting, value: object, line: bool) -> list[str]:
    if not value:
        return []
    try:
        found = [value] if isinstance(value, str) else list(value)  # type: ignore[call-overload]  # it is tried
    except TypeError:
        _refuse(value, "neither a text nor a list of texts")
    if not all(isinstance(one, str) for one in found):
        _refuse(value, "not a list of texts")
    return [_text(row, one, line) or "" for one in found]


def _dict(_: ForeignSetting, value: object, line: bool) -> object:  # noqa: ARG001  # as above
    return value if isinstance(value, dict) else _refuse(value, "no dictionary")


def _function(row: ForeignSetting, value: object, line: bool) -> object:  # noqa: ARG001  # as above
    if isinstance(value, str):
        module, dot, name = value.rpartition(".")
        if not dot:
            _refuse(value, "not a function", "give one, or module.function in quotes")
        try:
            value = getattr(importlib.import_module(module), name)
        except Exception as error:  # noqa: BLE001  # as above
            _refuse(value, f"not to be had ({type(error).__name__}: {error})", "give a function that is")
    if not callable(value):
        _refuse(value, "not a function")
    arities = _ARITIES.get(row.name)
    if arities is not None and _arity(value) not in arities:
        wanted = " or ".join(map(str, arities))
        name = getattr(value, "__qualname__", type(value).__qualname__)
        raise ValueError(f"{name} takes {_arity(value)} arguments; gunicorn gives it {wanted}")
    return value


def _arity(function: Callable[..., object]) -> int:
    positional = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
    try:
        return sum(one.kind in positional for one in inspect.signature(function).parameters.values())
    except ValueError:
        return -1


def _account(row: ForeignSetting, value: object, line: bool) -> object:
    return int(value) if isinstance(value, int) else _text(row, value, line)


def _class(row: ForeignSetting, value: object, line: bool) -> object:
    if inspect.isfunction(value) or inspect.ismethod(value):
        try:
            value = value()
        except Exception as error:  # noqa: BLE001  # the operator's code, whatever it raises
            _refuse(value, f"a function that fails ({type(error).__name__}: {error})", "give one that gives a class")
    return value if inspect.isclass(value) else _text(row, value, line)


def _texts(row: ForeignSetting, value: object, line: bool) -> str:
    """Several in one text, with commas between them."""
    return ",".join(part.strip() for part in (_text(row, value, line) or "").split(",") if part)


def _networks(row: ForeignSetting, value: object, line: bool) -> str:
    text = _texts(row, value, line)
    for part in text.split(",") if text else ():
        if part != "*":
            try:
                ipaddress.ip_network(part)
            except ValueError:
                _refuse(value, "not a list of addresses and networks", "give them with commas, or *")
    return text


def _choice(row: ForeignSetting, value: object, line: bool) -> object:  # noqa: ARG001  # as above
    if value is None:
        return None
    word = value.lower().strip() if isinstance(value, str) and row.name != "reload_engine" else value
    if isinstance(word, str | bool):
        word = _OTHER_WORDS.get(row.name, {}).get(word, word)
        if word in _CHOICES[row.name]:
            return word
    return _refuse(value, "no choice", f"give {', '.join(_CHOICES[row.name])}")


def _protocols(row: ForeignSetting, value: object, line: bool) -> str | None:
    words = [part.strip().lower() for part in (_text(row, value, line) or "").split(",") if part.strip()]
    if not set(words) <= {"h1", "h2"} or len(words) != len(set(words)):
        _refuse(value, "no list of protocols", "give h1, or h2,h1")
    return ",".join(words) or None


def _anything(_: ForeignSetting, value: object, line: bool) -> object:  # noqa: ARG001  # as above
    return value


_Validator = Callable[[ForeignSetting, Any, bool], Any]

_BY_KIND: Final[Mapping[str, _Validator]] = {
    "text": _text,
    "maybe": _text,
    "whole": _whole,
    "true": _bool,
    "false": _bool,
    "list": _list,
    "dict": _dict,
    "function": _function,
}
_SPECIAL: Final[Mapping[str, _Validator]] = {
    **dict.fromkeys(_NETWORKS, _networks),
    **dict.fromkeys(_ACCOUNTS, _account),
    **dict.fromkeys(_CLASSES, _class),
    **dict.fromkeys(_CHOICES, _choice),
    "forwarder_headers": _texts,
    "http_protocols": _protocols,
    "ssl_version": _anything,
}
