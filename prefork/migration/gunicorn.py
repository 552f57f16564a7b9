"""gunicorn's configuration, read as gunicorn reads it, and retold in settings of ours.

It comes from the command line, from ``GUNICORN_CMD_ARGS`` and from a file in Python, which is the operator's own code
and is executed; a flag beats the variable, and that the file. Where gunicorn's defaults are the environment's
(``WEB_CONCURRENCY``, ``PORT``, ``FORWARDED_ALLOW_IPS``, ``SCRIPT_NAME``), they are here. And as gunicorn does, the
environment says who serves (``SERVER_SOFTWARE``): applications ask whether "gunicorn" is in it before they start their
scheduler or make their tables.

Runs in the command's process, before there is a server.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import shlex
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

from prefork._version import __version__
from prefork.errors import SettingsError, did_you_mean, printable
from prefork.migration import gunicorn_values, gunicorn_whole
from prefork.migration.foreign_setting import by_flag, by_name
from prefork.migration.gunicorn_cfg import Cfg
from prefork.migration.gunicorn_kinds import validated
from prefork.migration.gunicorn_settings import HOOKS, ROWS
from prefork.migration.hook_faces import HookMemory, faced
from prefork.migration.retelling import BIND, PASSED, Origin, Retelling, Teller
from prefork.system.natives import os
from prefork.system.need import READABLE, told

ARGUMENTS: Final = "GUNICORN_CMD_ARGS"
DEFAULT_FILE: Final = "gunicorn.conf.py"

SOFTWARE: Final = {"SERVER_SOFTWARE": f"gunicorn/27.0 (prefork/{__version__})"}
"""The variable by which applications know that gunicorn serves them: whose settings hold, and who keeps to them."""

_OWN: Final = ("explain", "help")
_CONFIG: Final = "__config__"
_NOT_READ: Final = (
    "a reload (SIGHUP) brings new code, and does not read it anew where gunicorn's does; prefork upgrade does"
)


class _Parser(argparse.ArgumentParser):
    """gunicorn's flags, by the table; raises where argparse exits."""

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong as one line."""
        raise SettingsError(message.removeprefix("argument "))

    @classmethod
    @functools.cache
    def made(cls) -> _Parser:
        """The parser; a hundred flags take it longer to be made than to read a whole configuration."""
        parser = cls(add_help=False, allow_abbrev=True, argument_default=None)
        for row in ROWS:
            if not row.flags:
                continue
            match row.takes:
                case "true":
                    parser.add_argument(*row.flags, dest=row.name, action="store_const", const=True)
                case "false":
                    parser.add_argument(*row.flags, dest=row.name, action="store_const", const=False)
                case "list":
                    parser.add_argument(*row.flags, dest=row.name, action="append")
                case "maybe":
                    parser.add_argument(*row.flags, dest=row.name, nargs="?", const="auto")
                case _:
                    parser.add_argument(*row.flags, dest=row.name)
        parser.add_argument("--explain", action="store_const", const=True)
        parser.add_argument("-h", "--help", action="store_const", const=True)
        parser.add_argument("-v", "--version", action="store_const", const=True, dest="version")
        parser.add_argument("target", nargs="*")
        return parser


def retell(argv: Sequence[str], environ: Mapping[str, str]) -> Retelling:
    """Read gunicorn's configuration and retell it.

    Args:
        argv: What stands behind ``prefork gunicorn``: gunicorn's arguments, and ``--explain``.
        environ: The environment.

    Raises:
        SettingsError: Something of it can't be read, or can't be served at all; every problem at once.
    """
    parser = _Parser.made()
    line, complaints = _parsed(parser, argv, "")
    variable: dict[str, Origin] = {}
    if environ.get(ARGUMENTS):
        try:
            words = shlex.split(environ[ARGUMENTS])
        except ValueError as error:
            raise SettingsError(f"{ARGUMENTS}: {error}; quote it as a shell wants it") from None
        variable, more = _parsed(parser, words, ARGUMENTS)
        complaints += more
    targets = line.pop("target", Origin([], "")).value
    variable.pop("target", None)
    asks = {name for name in _OWN if line.pop(name, None) is not None}
    given: dict[str, Origin] = {}
    config = _config(line.get("config") or variable.get("config"))
    for said, is_file in (
        (_of_environment(environ), False),
        (_of_file(config), True),
        (variable | line, False),
    ):
        settled, wrong = _validated(said, line=not is_file)
        given |= settled
        complaints += wrong
    for name in ("check_config", "print_config"):
        if name in given and given[name].value:
            asks.add({"check_config": "check", "print_config": "print-config"}[name])
    if targets:
        given.setdefault("default_proc_name", Origin(targets[0], ""))
    teller = Teller(given if environ.get(BIND) != PASSED else {n: told for n, told in given.items() if n != "bind"})
    teller.complaints += complaints
    _tell(teller, environ)
    if config is not None:
        teller.remark(f"{printable(str(config.value))}: {_NOT_READ}", differs=False)
    if len(targets) > 1:
        teller.complaints.append(f"{targets[1]!r} is one argument too many beside {targets[0]!r}; give one target")
    teller.raise_if_wrong()
    if teller.value("chdir"):
        _on_the_path(os.getcwd())  # the folder that is left stays on it with gunicorn
    target = targets[0] if targets else teller.value("wsgi_app")
    shown = None if target is None else str(target)
    return Retelling(
        source="gunicorn",
        command=teller.command,
        target=None if shown is None else target_of(shown),
        values=teller.values,
        remarks=tuple(teller.remarks),
        hooks=_hooks(given, shown),
        logging=teller.logging,
        environment=SOFTWARE | teller.environment,
        path=tuple(teller.path),
        asks=frozenset(asks),
    )


def _validated(given: Mapping[str, Origin], *, line: bool) -> tuple[dict[str, Origin], list[str]]:
    """Values as gunicorn takes them, and what is wrong with the others."""
    rows, settled, complaints = by_name(ROWS), {}, []
    for name, (value, origin) in given.items():
        try:
            found = validated(rows[name], value, line=line)
        except ValueError as error:
            complaints.append(f"{name}: {error} (from {origin})")
            continue
        if found is not None:
            settled[name] = Origin(found, origin)
    return settled, complaints


def target_of(text: str) -> str:
    """A target of gunicorn's as one of ours: ``application`` where no attribute is named.

    Raises:
        SettingsError: The factory is given arguments.
    """
    module, colon, attribute = text.partition(":")
    if not colon:
        return f"{module}:application"
    if attribute.endswith(")") and not attribute.endswith("()"):
        raise SettingsError(
            f"{text!r}: a factory is called without arguments; write a function in a module of yours that calls it, "
            "and name that"
        )
    return text


def _parsed(parser: _Parser, argv: Sequence[str], origin: str) -> tuple[dict[str, Origin], list[str]]:
    """What arguments say, by the settings' names, and what is wrong with them."""
    found, strange = parser.parse_known_args(argv)
    flags = by_flag(ROWS)
    said = {}
    for name, value in vars(found).items():
        if value is None or value == []:
            continue
        row = by_name(ROWS).get(name)
        shown = row.flags[-1] if row is not None and row.flags else name
        said[name] = Origin(value, origin or shown)
    complaints = []
    for argument in strange:
        word = argument.partition("=")[0]
        if word.startswith("-"):
            remedy = did_you_mean(word, flags, "prefork's own settings are given by variables, PREFORK_MIN_WORKERS=2")
            complaints.append(f"{printable(word)!r} is not a flag of gunicorn's; {remedy}")
    return said, complaints


def _of_environment(environ: Mapping[str, str]) -> dict[str, Origin]:
    """What gunicorn takes from the environment where nobody says otherwise, and its defaults that aren't ours."""
    given = {"workers": Origin(1, "gunicorn's default")}
    if environ.get("WEB_CONCURRENCY"):
        given["workers"] = Origin(environ["WEB_CONCURRENCY"], "WEB_CONCURRENCY")
    if environ.get("PORT"):
        given["bind"] = Origin([f"0.0.0.0:{environ['PORT']}"], "PORT")
    if environ.get("FORWARDED_ALLOW_IPS"):
        given["forwarded_allow_ips"] = Origin(environ["FORWARDED_ALLOW_IPS"], "FORWARDED_ALLOW_IPS")
    return given


def _config(named: Origin | None) -> Origin | None:
    """The name of the file in Python, as ``-c`` gives it, else of the usual one, if that is there."""
    if named is None and os.path.exists(DEFAULT_FILE):
        return Origin(DEFAULT_FILE, "default")
    return named


def _of_file(config: Origin | None) -> dict[str, Origin]:
    """What the file in Python says, which is executed.

    Args:
        config: Its name; None for none.

    Raises:
        SettingsError: It is not there, or fails.
    """
    if config is None:
        return {}
    name = str(config.value)
    if name.startswith("python:"):
        namespace = _module(name.removeprefix("python:"))
    else:
        name = name.removeprefix("file:")
        namespace = _executed(name)
    shown = name if name.isprintable() else ascii(name)
    known = by_name(ROWS)
    return {key: Origin(value, shown) for key, value in namespace.items() if key in known}


def _module(name: str) -> Mapping[str, Any]:
    _on_the_path(os.getcwd())
    try:
        return vars(importlib.import_module(name))
    except Exception as error:  # the operator's code, whatever it raises
        raise _failed(f"python:{name}", error) from error


def _executed(name: str) -> dict[str, Any]:
    path = os.path.abspath(name)
    try:
        with open(path, "rb") as file:
            source = file.read()
    except OSError as error:
        raise SettingsError(f"config: {name!r} can't be read: {told(error, READABLE)}") from None
    _on_the_path(os.getcwd())
    # A module that is there, as with gunicorn: dataclasses, for one, look up what an annotation names (PEP 563).
    module = sys.modules[_CONFIG] = types.ModuleType(_CONFIG)
    module.__file__ = path
    try:
        exec(compile(source, path, "exec"), vars(module))
    except (Exception, SystemExit) as error:  # the operator's code, whatever it raises
        raise _failed(name, error) from error
    return vars(module)


def _on_the_path(folder: str) -> None:
    """As gunicorn has it, but last: what this process has yet to import is not to be taken from there."""
    if folder not in sys.path:
        sys.path.append(folder)


def _failed(name: str, error: BaseException) -> SettingsError:
    line = getattr(error, "lineno", None) if isinstance(error, SyntaxError) else None
    traceback = error.__traceback__
    while line is None and traceback is not None:
        if traceback.tb_frame.f_globals.get("__name__") == _CONFIG:
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    place = f"{name}:{line}" if line else name
    message = " ".join(str(error).split())
    return SettingsError(f"config: {place}: {type(error).__name__}: {message}")


def _tell(teller: Teller, environ: Mapping[str, str]) -> None:
    """Tell all that was given."""
    for row in ROWS:
        if row.name not in teller.given or row.takes == "function":
            continue
        special = gunicorn_values.SPECIAL.get(row.name)
        try:
            if special is None:
                teller.plainly(row)
            else:
                special(teller, row)
        except ValueError as error:
            teller.complaints.append(f"{row.name}: {error} (from {teller.given[row.name].origin})")
    for row in HOOKS:
        if row.name in teller.given and teller.value(row.name) is not None and row.note:
            teller.remark(f"{row.name} ({teller.given[row.name].origin}): {row.note}", differs=True)
    if not teller.complaints:
        gunicorn_whole.settle(teller, environ.get("SCRIPT_NAME", ""))


def _hooks(given: Mapping[str, Origin], target: str | None) -> dict[str, Any]:
    """The hooks that we have, too; given what gunicorn would give them."""
    found = {row.name: given[row.name].value for row in HOOKS if row.name in given and not row.note}
    if not any(callable(hook) for hook in found.values()):
        return {name: hook for name, hook in found.items() if hook is not None}
    values = {name: value for name, (value, _) in given.items()}
    cfg = Cfg({"default_proc_name": target} | values, target or "")
    memory = HookMemory()
    return {
        name: faced(name, hook, cfg, memory) if callable(hook) else hook
        for name, hook in found.items()
        if hook is not None
    }
