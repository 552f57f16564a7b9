"""Files of uWSGI's: ini, YAML and JSON, with its placeholders, as uWSGI reads them.

A file has sections, of which ``[uwsgi]`` is read, or the one that ``FILE:SECTION`` names. Keys may be there several
times, and one without a value is true. In values ``%(name)`` is what a key before said, ``$(NAME)`` a variable of the
environment, ``@(FILE)`` what is in a file, and ``%d`` and its like speak of the file and the machine
(https://uwsgi-docs.readthedocs.io, Configuration).
"""

from __future__ import annotations

import grp
import importlib
import json
import pwd
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

from prefork.errors import SettingsError
from prefork.system.limits import cpus
from prefork.system.natives import os, socket

_LOGIC: Final = re.compile(r"(if|for|endif|endfor|else|end)(-|$)")
_PLACEHOLDER: Final = re.compile(r"%\(([^)]*)\)|\$\(([^)]*)\)|@\(([^)]*)\)|%(.)")
_MOST: Final = 20  # files that include each other


class FileOption(NamedTuple):
    """One option of a file."""

    name: str
    value: str
    origin: str


class ForeignFile:
    """Reads a file and those that it includes.

    Args:
        environ: The environment.

    Attributes:
        lines: What was read, in order, with placeholders filled in.
        variables: What keys said so far, for ``%(name)``.
        used: The keys that a placeholder has named.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.lines: list[FileOption] = []
        self.variables: dict[str, str] = {}
        self.used: set[str] = set()
        self._environ = environ
        self._count = 0

    def read(self, text: str) -> None:
        """Read ``FILE`` or ``FILE:SECTION``.

        Raises:
            SettingsError: It can't be read.
        """
        name, _, section = text.partition(":")
        self._count += 1
        if self._count > _MOST:
            raise SettingsError(f"{name!r} includes itself; leave that out")
        try:
            with open(name, encoding="utf-8") as file:
                source = file.read()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{name!r} can't be read: {getattr(error, 'strerror', error)}") from None
        for key, value in _pairs(name, source, section or "uwsgi"):
            self.take_option(key, value, name)

    def take_option(self, key: str, value: str, origin: str) -> None:
        """Take one option; one that names a file includes it.

        Raises:
            SettingsError: A placeholder is not known, or a file can't be read.
        """
        key = key.strip().replace("_", "-")
        if _LOGIC.match(key):
            raise SettingsError(f"{origin}: {key} is not understood; write what holds here without it")
        value = self._filled(value, origin)
        if key in {"ini", "include", "yaml", "yml", "json"}:
            self.read(value)
        elif key in {"set", "set-placeholder", "set-ph"}:
            name, _, said = value.partition("=")
            self.variables[name] = said
            self.used.add(name)
        else:
            self.variables[key] = value
            self.lines.append(FileOption(key, value, origin))

    def _filled(self, value: str, origin: str) -> str:
        def fill(found: re.Match[str]) -> str:
            named, variable, file, letter = found.groups()
            if variable is not None:
                return self._environ.get(variable, "")
            if file is not None:
                return _content(file)
            if letter is not None:
                return found[0] if letter not in LETTERS else _magic(letter, origin)
            name = named.replace("_", "-") if named.replace("_", "-") in self.variables else named
            if name not in self.variables:
                raise SettingsError(f"{origin}: %({named}) is not known; define it before")
            self.used.add(name)
            return self.variables[name]

        return _PLACEHOLDER.sub(fill, value)


def _content(name: str) -> str:
    try:
        with open(name, encoding="utf-8") as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{name!r} can't be read: {getattr(error, 'strerror', error)}") from None


LETTERS: Final = "pdnsceuUgGhk"
"""The placeholders of one letter that are filled in; others stay."""


def _magic(letter: str, file: str) -> str:
    path = os.path.abspath(file)
    folder, name = os.path.split(path)
    stem, _, ending = name.rpartition(".")
    tell: Mapping[str, Callable[[], object]] = {
        "p": lambda: path,
        "d": lambda: f"{folder}/",
        "n": lambda: stem or name,
        "s": lambda: name,
        "c": lambda: os.path.basename(folder),
        "e": lambda: ending,
        "u": os.getuid,
        "U": lambda: pwd.getpwuid(os.getuid()).pw_name,
        "g": os.getgid,
        "G": lambda: grp.getgrgid(os.getgid()).gr_name,
        "h": socket.gethostname,
        "k": cpus,
    }
    return str(tell[letter]())


def _pairs(name: str, source: str, section: str) -> Iterator[tuple[str, str]]:
    """Keys and values of a section."""
    ending = name.rpartition(".")[2].lower()
    if ending == "xml":
        raise SettingsError(f"{name!r}: XML is not read; write an ini file")
    if ending in {"yaml", "yml"}:
        yield from _of_mapping(name, _yaml(name, source), section)
    elif ending in {"json", "js"}:
        try:
            yield from _of_mapping(name, json.loads(source), section)
        except ValueError as error:
            raise SettingsError(f"{name!r} is not JSON: {error}") from None
    else:
        yield from _of_ini(name, source, section)


def _of_ini(name: str, source: str, wanted: str) -> Iterator[tuple[str, str]]:
    section, seen = "", False
    for line in source.splitlines():
        text = line.strip()
        if not text or text[0] in ";#":
            continue
        if text[0] == "[" and "]" in text:
            section = text[1 : text.index("]")].strip()
            seen = seen or section == wanted
        elif section == wanted:
            key, equals, value = text.partition("=")
            yield key.strip(), value.strip() if equals else "true"
    if not seen:
        raise SettingsError(f"{name!r} has no section [{wanted}]; name another, as FILE:SECTION")


def _yaml(name: str, source: str) -> object:
    try:
        yaml = importlib.import_module("yaml")
    except ImportError:
        raise SettingsError(f"{name!r}: PyYAML is not installed; pip install pyyaml, or write an ini file") from None
    try:
        return yaml.safe_load(source)
    except yaml.YAMLError as error:
        raise SettingsError(f"{name!r} is not YAML: {' '.join(str(error).split())}") from None


def _of_mapping(name: str, found: object, section: str) -> Iterator[tuple[str, str]]:
    options = found.get(section) if isinstance(found, dict) else None
    if not isinstance(options, dict):
        raise SettingsError(f"{name!r} has no mapping {section!r}; name another, as FILE:SECTION")
    for key, value in options.items():
        for one in value if isinstance(value, list) else [value]:
            yield str(key), str(one).lower() if isinstance(one, bool) else "" if one is None else str(one)
