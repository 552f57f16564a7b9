"""uWSGI's configuration, read as uWSGI reads it, and retold in settings of ours.

Runs in the command's process, before there is a server.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from prefork.errors import SettingsError, printable
from prefork.migration import uwsgi_values
from prefork.migration.foreign_setting import ForeignSetting, by_flag, by_name
from prefork.migration.retelling import Origin, Retelling, Teller, converted
from prefork.migration.uwsgi_files import ForeignFile
from prefork.migration.uwsgi_settings import ROWS, family
from prefork.system.natives import os

_ASKS: Final = {"--explain": "explain", "--check": "check", "--print-config": "print-config"}
_FILES: Final = ("--ini", "--yaml", "--yml", "-y", "--json", "-j", "--xml", "-x")
_ALIASES: Final = ("processes workers", "module wsgi", "wsgi-file file", "home virtualenv venv pyhome", "logto logto2")
_NAMED_FILES: Final = ("ini", "yaml", "yml", "json")
_SAME: Final = {name: set(names.split()) - {name} for names in _ALIASES for name in names.split()}
_ENDINGS: Final = (".ini", ".yaml", ".yml", ".json", ".js", ".xml")


def retell(argv: Sequence[str], environ: Mapping[str, str]) -> Retelling:
    """Read uWSGI's configuration and retell it.

    Args:
        argv: What stands behind ``prefork uwsgi``: uWSGI's arguments, and ``--explain``.
        environ: The environment.

    Raises:
        SettingsError: Something of it can't be read, or can't be served at all; every problem at once.
    """
    file = ForeignFile(environ)
    # What is none of uWSGI's options, as UWSGI_VERSION of an image, may be a placeholder.
    begin = "UWSGI_"
    variables = {
        name.removeprefix(begin).lower().replace("_", "-"): value
        for name, value in environ.items()
        if name.startswith(begin)
    }
    file.variables.update(variables)
    asks = _taken(file, argv)
    for name, value in variables.items():
        if name in _NAMED_FILES or name in by_name(ROWS) or family(name):
            file.take_option(name, value, begin + name.upper().replace("-", "_"))
    given, strange, complaints = _given(file)
    teller = Teller(given)
    teller.complaints += complaints
    _tell(teller)
    for name, text, origin in file.unfilled:
        why = "the variable is not set, so it is empty" if text[0] == "$" else "it is not known, and stays as it is"
        teller.remark(f"{printable(text)} in {printable(name)} ({origin}): {why}", differs=True)
    for name, origin in strange.items():
        row_of_many = family(name)
        said = "prefork knows no such option of uWSGI's" if row_of_many is None else row_of_many.note
        differs = row_of_many is None or row_of_many.weight == "warning"
        teller.remark(f"{printable(name)} ({origin}): {said}", differs=differs)
    target = _target(teller)
    teller.settle_reach()
    teller.settle_use()
    teller.raise_if_wrong()
    return Retelling(
        source="uwsgi",
        command="wsgi",
        target=target,
        values=teller.values,
        remarks=tuple(teller.remarks),
        environment=teller.environment,
        path=tuple(teller.path),
        asks=frozenset(asks),
    )


def _given(file: ForeignFile) -> tuple[dict[str, Origin], dict[str, str], list[str]]:
    """Options that have a row, with their values; the others, with their origins; what is wrong with values."""
    rows = by_name(ROWS)
    values: dict[str, list[str]] = {}
    origins: dict[str, str] = {}
    strange: dict[str, str] = {}
    for name, value, origin in file.lines:
        if name in rows:
            for other in _SAME.get(name, ()):  # whichever is said last holds
                values.pop(other, None)
            values.setdefault(name, []).append(value)
            origins[name] = origin
        elif name not in file.used:
            strange[name] = origin
    given = {"processes": Origin(1, "uWSGI's default"), "harakiri": Origin(0, "uWSGI's default")}
    complaints = []
    for name, found in values.items():
        try:
            worth = _value(rows[name], found)
        except ValueError as error:
            complaints.append(f"{name}: {error} (from {origins[name]})")
            continue
        if worth is not False:
            given[name] = Origin(worth, origins[name])
    if "workers" in given:
        del given["processes"]
    return given, strange, complaints


def _value(row: ForeignSetting, found: list[str]) -> object:
    """What an option that is there several times has: all, or the last; of yes and no, all but the words for no is yes.

    Raises:
        ValueError: It is of another kind; the message begins with it.
    """
    if row.takes == "true":
        return found[-1].partition(";")[0].strip().lower() not in {"false", "off", "no", "0"}
    if row.takes == "whole":  # a comment may follow, for uWSGI reads digits as far as there are some
        number = re.match(r"\s*[+-]?\d+", found[-1])
        return converted(row, found[-1] if number is None else str(int(number[0])))
    return converted(row, found if row.takes == "list" else found[-1])


def _taken(file: ForeignFile, argv: Sequence[str]) -> set[str]:
    """Have the arguments and the files that they name read; what is asked for beside serving."""
    asks, flags, rest = set(), by_flag(ROWS), list(argv)
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        if word in _ASKS:
            asks.add(_ASKS[word])
        elif flag in _FILES or (not word.startswith("-") and word.partition(":")[0].endswith(_ENDINGS)):
            file.read(value if equals else _next(flag, rest) if flag in _FILES else word)
        elif not word.startswith("-"):
            file.take_option("http-socket" if ":" in word else "wsgi-file", word, word)
        elif flag in flags or flag.startswith("--"):
            row = flags.get(flag)
            name = row.name if row else flag.removeprefix("--")
            if not equals:
                value = "true" if _stands_alone(row, rest) else _next(flag, rest)
            file.take_option(name, value, flag)
        elif word[:2] in flags:  # as getopt(3) has it: -p4, or several that take nothing
            row = flags[word[:2]]
            if row.takes == "true":
                rest.insert(0, f"-{word[2:]}")
                file.take_option(row.name, "true", word[:2])
            else:
                file.take_option(row.name, word[2:], word[:2])
        else:
            raise SettingsError(f"{printable(word)!r} is not a flag of uWSGI's that prefork knows; write it as --NAME")
    return asks


def _stands_alone(row: ForeignSetting | None, rest: Sequence[str]) -> bool:
    """Whether a flag has no value, going by what follows; None is one that we don't know, and it may have one."""
    if row is None or row.takes == "maybe":
        return not rest or rest[0].startswith("-") or _names_a_file(rest[0])
    return row.takes == "true" or (row.takes == "text" and bool(rest) and rest[0].startswith("--"))


def _names_a_file(word: str) -> bool:
    """Whether a word without a flag is a configuration, or an application."""
    return word.partition(":")[0].endswith((*_ENDINGS, ".py"))


def _next(flag: str, rest: list[str]) -> str:
    if not rest:
        raise SettingsError(f"{flag}: expected one argument")
    return rest.pop(0)


def _tell(teller: Teller) -> None:
    for row in ROWS:
        if row.name not in teller.given:
            continue
        special = uwsgi_values.SPECIAL.get(row.name)
        try:
            if special is None:
                teller.plainly(row)
            else:
                special(teller, row)
        except ValueError as error:
            teller.complaints.append(f"{row.name}: {error} (from {teller.given[row.name].origin})")
    if not teller.complaints:
        uwsgi_values.settle_log(teller)
        uwsgi_values.settle_proxies(teller)
        uwsgi_values.settle_application(teller)


def _target(teller: Teller) -> str | None:
    """What is served: of ``mount``, ``module`` or ``wsgi-file``; its folder goes on the import path."""
    name = teller.value("module", teller.value("wsgi"))
    attribute = str(teller.value("callable", "application"))
    mounts = teller.value("mount") or []
    if len(mounts) > 1:
        teller.refuse("mount", "one application is served; have a server for each, or one that calls the others")
        return None
    if mounts:
        path, _, name = mounts[0].partition("=")
        if path.rstrip("/"):
            teller.put("script_name", path.rstrip("/"), teller.given["mount"].origin)
    file = teller.value("wsgi-file", teller.value("file"))
    if name is not None and str(name).endswith(".py"):
        file, name = name, None
    if name is None and file is not None:
        if not str(file).endswith(".py"):
            teller.complaints.append(f"wsgi-file: {str(file)!r} is no module's file; give it a name that ends in .py")
            return None
        folder, name = _module_of(os.path.join(str(teller.value("chdir", "")), str(file)))
        teller.path.append(folder)
    if name is None:
        return None
    text = str(name)
    return text if ":" in text else f"{text}:{attribute}"


def _module_of(file: str) -> tuple[str, str]:
    """The folder to be on the import path for a file to be imported, and the dotted name of its module then.

    A file of a package is imported as what it is there. Were its own folder on the path, what is beside it would hide
    modules of the same name: a ``shop/celery.py`` the celery that it imports.
    """
    folder, base = os.path.split(file)
    names = [base.removesuffix(".py")]
    while os.path.isfile(os.path.join(folder, "__init__.py")):
        folder, package = os.path.split(os.path.abspath(folder))
        names.insert(0, package)
    return folder or ".", ".".join(names)
