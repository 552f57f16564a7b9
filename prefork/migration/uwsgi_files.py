"""Files of uWSGI's: ini, YAML and JSON, with its placeholders, as uWSGI reads them.

A file has sections, of which ``[uwsgi]`` is read, or the one that ``FILE:SECTION`` names. Keys may be there several
times, and one without a value is true, where that is what it can be. In values ``%(name)`` is what a key before said
first, or where there is none one behind it, ``%(name + 1)`` a sum of such, ``$(NAME)`` a variable of the environment,
``@(FILE)`` what is in a file, and ``%d`` and its like speak of the file and the machine. Between ``if-env = NAME`` and
``endif`` stands what holds only then, between ``for = A B`` and ``endfor`` what holds for each; ``%(_)`` is the value,
or the item (https://uwsgi-docs.readthedocs.io, Configuration and Configuration logic).
"""

from __future__ import annotations

import grp
import importlib
import json
import pwd
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from prefork.errors import SettingsError
from prefork.system.limits import cpus
from prefork.system.natives import os, socket, time
from prefork.system.need import READABLE, told

_LOGIC: Final = re.compile(r"(if|for|endif|endfor|else|end)(-|$)")
_TEST: Final = re.compile(r"if-(not-)?(env|opt|exists|file|dir)")
_FILES: Final = {"exists": os.path.exists, "file": os.path.isfile, "dir": os.path.isdir}
_SUM: Final = re.compile(r"([\w.-]+) +([-+*/]) +([\w.-]+) *")  # the spaces make it one
_SIGN: Final = re.compile(r"%(.)")
_OF_LOGS: Final = re.compile(
    r"log-?format.*|log-?date|log-.*|.*logger|.*encoder"
)  # they have placeholders of their own
_STRANGE: Final = "bvVjJiIT"  # letters that stand for something else with uWSGI
_PLACEHOLDER: Final = re.compile(r"%\(([^)]*)\)|\$\(([^)]*)\)|@\(([^)]*)\)|%(.|$)")
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
        unfilled: Placeholders that stand for nothing here, each with its key and origin.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.lines: list[FileOption] = []
        self.variables: dict[str, str] = {}
        self.used: set[str] = set()
        self.unfilled: list[FileOption] = []
        self._block: list[str] | None = None
        self._first = ""
        self._behind: dict[str, str] = {}
        self._environ = environ
        self._count = 0

    def read(self, text: str) -> None:
        """Read ``FILE`` or ``FILE:SECTION``.

        Raises:
            SettingsError: It can't be read.
        """
        name, _, section = text.partition(":")
        self._first = self._first or name
        self._count += 1
        if self._count > _MOST:
            raise SettingsError(f"{name!r} includes itself; leave that out")
        pairs = list(_pairs(name, _read(name), section or "uwsgi"))
        before, self._behind = self._behind, _first(pairs)
        for key, value in pairs:
            self.take_option(key, value, name)
        self._behind = before

    def take_option(self, key: str, value: str, origin: str) -> None:
        """Take one option; one that names a file includes it.

        Raises:
            SettingsError: A placeholder is not known, or a file can't be read.
        """
        key = key.strip().replace("_", "-")
        if _LOGIC.match(key):
            self._decide(key, value, origin)
            return
        for item in [None] if self._block is None else self._block:
            self._take(key, value if item is None else value.replace("%(_)", item), origin)

    def _take(self, key: str, value: str, origin: str) -> None:
        value = self._filled(key, value, origin)
        if key in {"ini", "include", "yaml", "yml", "json"}:
            self.read(value)
        elif key in {"set", "set-placeholder", "set-ph"}:
            name, _, said = value.partition("=")
            self.variables.setdefault(name, said)
            self.used.add(name)
        else:
            self.variables.setdefault(key, value)  # whatever is said later, the first is what it stands for
            self.lines.append(FileOption(key, value, origin))

    def _decide(self, key: str, value: str, origin: str) -> None:
        """Whether what follows holds, and how often: once for each item of the block, which ``%(_)`` stands for."""
        if key in {"endif", "endfor", "end"} and self._block is not None:
            self._block = None
            return
        test = _TEST.fullmatch(key)
        if key != "for" and test is None:
            raise SettingsError(f"{origin}: {key} is not understood; write what holds here without it")
        if self._block is not None:
            raise SettingsError(f"{origin}: {key} stands within another block; end that before")
        value = self._filled(key, value, origin)
        if test is None:
            self._block = value.split()
            return
        if test[2] in _FILES:
            found = value if _FILES[test[2]](value) else None
        else:
            name, equals, wanted = value.partition("=")
            found = (self._environ if test[2] == "env" else self.variables).get(name)
            found = None if equals and found != wanted else found
        self._block = [found or ""] if (found is not None) != bool(test[1]) else []

    def _filled(self, key: str, value: str, origin: str) -> str:
        of_logs = _OF_LOGS.fullmatch(key)

        def fill(found: re.Match[str]) -> str:
            named, variable, file, letter = found.groups()
            if variable is not None:
                if variable not in self._environ:
                    self.unfilled.append(FileOption(key, found[0], origin))
                return self._environ.get(variable, "")
            if file is not None:
                return _content(file)
            if letter is not None:
                if letter in _STRANGE and letter and not of_logs:
                    self.unfilled.append(FileOption(key, found[0], origin))
                return self._letter(letter, origin, of_logs=bool(of_logs))
            # What stands for one letter is filled in before anything else is looked at: %(%k * 2).
            name = _SIGN.sub(lambda sign: self._letter(sign[1], origin, of_logs=bool(of_logs)), named)
            known = self._known(name)
            if known is None and (later := name.replace("_", "-")) in self._behind:
                known = self.variables[later] = self._filled(later, self._behind.pop(later), origin)
                self.used.add(later)
            if known is not None:
                return known
            if not of_logs:
                raise SettingsError(f"{origin}: %({named}) is not known; define it before")
            return found[0]

        return _PLACEHOLDER.sub(fill, value)

    def _letter(self, letter: str, origin: str, *, of_logs: bool) -> str:
        """What a sign behind a percent sign stands for; for most of them uWSGI has nothing, and leaves them out."""
        if letter and letter in LETTERS:
            return _magic(letter, self._first or origin if letter in FIRST else origin)
        if letter.isdigit():
            return _component(self._first or origin, int(letter))
        if of_logs or letter == "(" or (letter and letter in _STRANGE):
            return f"%{letter}"
        return "%" if letter == "%" else ""

    def _known(self, named: str) -> str | None:
        """What a name stands for, or a sum of two names or numbers; None for what is none."""
        for name in (named, named.replace("_", "-")):
            if name in self.variables:
                self.used.add(name)
                return self.variables[name]
        found = _SUM.fullmatch(named)
        if found is None:
            return None
        first, sign, second = found.groups()
        first, second = self._known(first) or first, self._known(second) or second
        try:
            a, b = int(first), int(second)
            return str({"+": a + b, "-": a - b, "*": a * b}[sign] if sign != "/" else int(a / b))  # as in C
        except (ValueError, ZeroDivisionError):
            return None


def _read(name: str) -> str:
    try:
        with open(name, encoding="utf-8-sig") as file:  # some editors begin a file with a mark
            return file.read()
    except UnicodeDecodeError:
        raise SettingsError(f"{name!r} can't be read: it is not UTF-8 text; save it as such") from None
    except OSError as error:
        raise SettingsError(f"{name!r} can't be read: {told(error, READABLE)}") from None


def _first(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """What each key of a file says first, but for what holds only somewhere."""
    found: dict[str, str] = {}
    within = False
    for key, value in pairs:
        name = key.strip().replace("_", "-")
        if _LOGIC.match(name):
            within = not name.startswith("end")
        elif not within:
            found.setdefault(name, value)
    return found


def _content(name: str) -> str:
    return _read(name).strip()


LETTERS: Final = "pdnscePDNSCEoOuUgGhkt"
"""The placeholders of one letter that are filled in; others stay."""

FIRST: Final = "PDNSCEO"
"""Those that speak of the file that was read first, and not of the one that they stand in."""


def _magic(letter: str, file: str) -> str:
    path = os.path.abspath(file)
    folder, name = os.path.split(path)
    stem, _, ending = name.rpartition(".")
    tell: Mapping[str, Callable[[], object]] = {
        "p": lambda: path,
        "o": lambda: file,
        "t": lambda: int(time.time()),
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
    return str(tell[letter.lower() if letter in FIRST else letter]())


def _component(file: str, number: int) -> str:
    """A part of the path of the folder that a file is in; "" where it has no such."""
    parts = os.path.dirname(os.path.abspath(file)).split("/")[1:]
    return parts[number] if number < len(parts) else ""


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
        if text[0] == "[":
            section = text[1:-1]  # whatever its last character is: a comment behind it makes it another one
            seen = seen or section == wanted
        elif section == wanted:
            key, _, value = text.partition("=")
            yield key.strip(), value.strip()
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
