"""Where settings come from: flags, the environment, a TOML file, a platform, defaults; and where each one came from.

A flag beats a variable, a variable beats the file, the file beats what a platform sets, and that beats the default.
`load` looks at all of them before it complains, and complains about everything at once. The tables of settings do the
reading and checking; this module knows nothing of any single setting, but for those that platforms have variables for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, Generic, NamedTuple, TypeVar

from prefork.config import expansion, rules, settings
from prefork.config.fields import GROUPS, Field, made
from prefork.config.kinds import Plain
from prefork.config.rules import Problem
from prefork.config.settings import Settings
from prefork.errors import SettingsError, did_you_mean
from prefork.system.need import READABLE, told
from prefork.system.record import MutableRecord, Record, fresh

T = TypeVar("T")

PREFIX: Final = "PREFORK_"
DEFAULT: Final = "default"
"""The origin of a value that nobody gave."""

FILE_VARIABLE: Final = "PREFORK_CONFIG"
"""The variable that names the file when no flag does."""

PLATFORM: Final = {"PORT": "bind", "WEB_CONCURRENCY": "workers", "FORWARDED_ALLOW_IPS": "forwarded_allow_ips"}
"""Variables that hosting platforms set, and gunicorn reads, with the setting that each is taken for."""

# What Kubernetes puts into the environment for a service whose name begins with "prefork": NAME=VALUE that aren't ours.
_SERVICE_LINK: Final = re.compile(
    r"PREFORK_(\w+_)?(SERVICE_HOST=.*|SERVICE_PORT(_\w+)?=\d+|PORT_\d+_\w+=.*|PORT=\w+://.*)"
)

_HIGHEST_PORT: Final = 65535
_PORT_DIGITS: Final = 6  # one more than that has


class Table(Record, Generic[T], kw_only=True):
    """Settings that one command has beyond those of every server.

    Args:
        fields: What they are.
        groups: The headings that they stand under, in order.
        make: Makes the object that holds them, from keyword arguments for all of them, each checked by itself; raises
            SettingsError for what they may not say together, with lines that begin with the name of a setting.
    """

    fields: tuple[Field, ...]
    groups: tuple[str, ...]
    make: Callable[..., T]


class Sourced(NamedTuple):
    """A value and where it came from: a flag, a variable, a file's name, or "default"."""

    value: object
    origin: str


class Configuration(Record, kw_only=True):
    """What holds, and why.

    Attributes:
        settings: The settings of the server.
        extra: What the command's own table made; None without one.
        given: What each setting was given, in the order of the tables, with its origin.
        fields: All settings there are, in that order.
        groups: All headings, in order.
        hooks: Functions that came with the settings, where these were told in Python; None leaves them to the setting.
        logging: What Python's logging is configured by, where that was told likewise.
        path: Folders for the import path of whoever loads the application, behind its own, and of nobody else.
    """

    settings: Settings
    extra: Any
    given: Mapping[str, Sourced]
    fields: tuple[Field, ...]
    groups: tuple[str, ...]
    hooks: Any = None
    logging: Mapping[str, Any] | None = None
    path: tuple[str, ...] = ()

    def toml(self, *, given: bool = False) -> str:
        """All of it as a file that gives the same settings when it is read, each with its origin in a comment.

        Args:
            given: Leave out what is the default.
        """
        lines = []
        for group in self.groups:
            fields = [field for field in self.fields if field.group == group]
            if given:
                fields = [field for field in fields if self.given[field.name].origin != DEFAULT]
                if not fields:
                    continue
            lines.append(f"# {group}")
            for field in fields:
                value, origin = self.given[field.name]
                lines.append(f"{field.name} = {_toml(field.kind.plain(value))}  # {origin}")
            lines.append("")
        return "\n".join(lines)


class _Reading(MutableRecord):
    """One pass over all sources: what they say so far, and what is wrong so far."""

    known: Mapping[str, Field]
    siblings: Callable[[str], str]
    given: dict[str, Sourced] = fresh(factory=dict)
    bad: set[str] = fresh(factory=set)
    complaints: list[str] = fresh(factory=list)
    problems: list[Problem] = fresh(factory=list)

    def put(self, name: str, value: object, origin: str) -> None:
        """Take a value; it beats those taken before."""
        self.bad.discard(name)
        self.problems = [problem for problem in self.problems if problem.names != (name,)]
        self.given[name] = Sourced(value, origin)

    def put_text(self, name: str, text: str, origin: str) -> None:
        """Take a value that is written as text."""
        self.put(name, None, origin)
        try:
            self.given[name] = Sourced(self.known[name].parse(text), origin)
        except ValueError as error:
            self.put_bad(name, str(error), origin)

    def put_bad(self, name: str, problem: str, origin: str) -> None:
        """Take a value that can't be read, with the line that says why."""
        self.put(name, None, origin)
        self.bad.add(name)
        self.problems.append(Problem((name,), problem))

    def settled(self) -> dict[str, Any]:
        """Check what was given and could be read: the values of settings that are good by themselves, by name."""
        readable = {name: value for name, (value, _) in self.given.items() if name not in self.bad}
        values, problems = rules.examine(self.known, readable, self.bad)
        self.problems += problems
        return {name: value for name, value in values.items() if name not in self.bad}

    def origin(self, name: str) -> str:
        """Where the value of a setting came from."""
        return self.given[name].origin if name in self.given else DEFAULT

    def lines(self) -> Iterator[str]:
        """Everything that is wrong: what is no setting first, then in the order of the tables, with its origins."""
        yield from self.complaints
        order = {name: place for place, name in enumerate(self.known)}
        for problem in sorted(self.problems, key=lambda problem: order.get(problem.names[0], -1)):
            origins = [self.given[name].origin for name in problem.names if name in self.given]
            told = [origin for origin in dict.fromkeys(origins) if origin != DEFAULT]
            yield f"{problem.text} (from {' and '.join(told)})" if told else problem.text


def load(
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    *,
    file: str | None = None,
    defaults: Mapping[str, object] | None = None,
    retold: Mapping[str, tuple[object, str]] | None = None,
    table: Table[Any] | None = None,
    complaints: Iterable[str] = (),
    checks: Callable[[Mapping[str, object]], Iterable[str]] = lambda _: (),
    siblings: Callable[[str], str] = lambda _: "",
) -> Configuration:
    """Settle every setting.

    Args:
        flags: What the command line said, by the settings' names: text, a bool for a switch, or a list of texts for a
            flag that was given several times. None is a flag that was not given.
        environ: The environment. An empty variable counts as one that is not set.
        file: The TOML file; None leaves it to ``PREFORK_CONFIG``.
        defaults: Where a command's defaults differ from the tables'.
        retold: What another server's configuration became (`prefork.migration`): values with their origins, by name. It
            beats the file.
        table: The command's own settings, if it has any.
        complaints: Problems known already, to be reported with those found here.
        checks: Finds problems that depend on settings: given those that are good by themselves, it yields lines.
        siblings: Says of a name whether it is another command's setting; "" if it is not.

    Returns:
        The configuration.

    Raises:
        SettingsError: With every problem of every source at once. Each line says where the value came from. A value
            that is beaten by another one is not looked at.
    """
    fields = settings.fields() + (table.fields if table else ())
    reading = _Reading({field.name: field for field in fields}, siblings)
    for name, value in (defaults or {}).items():
        reading.put(name, value, DEFAULT)
    _read_platform(reading, environ)
    _read_file(reading, file or environ.get(FILE_VARIABLE) or None, environ)
    for name, (value, origin) in (retold or {}).items():
        reading.put(name, value, origin)
    _read_environment(reading, environ)
    _read_flags(reading, flags)

    values = reading.settled()
    extra = _make(reading, table, values) if table else None
    of_every_server = {field.name: values[field.name] for field in settings.fields() if field.name in values}
    if wrong := [*complaints, *checks(of_every_server), *reading.lines()]:
        raise SettingsError(wrong)

    return Configuration(
        settings=made(Settings, of_every_server),
        extra=extra,
        given={name: Sourced(value, reading.origin(name)) for name, value in values.items()},
        fields=fields,
        groups=GROUPS + (table.groups if table else ()),
    )


def _make(reading: _Reading, table: Table[T], values: Mapping[str, Any]) -> T | None:
    """What a command's own table makes of its values; None when they can't be used."""
    own = {field.name: values[field.name] for field in table.fields if field.name in values}
    if len(own) < len(table.fields):
        return None
    try:
        return table.make(**own)
    except SettingsError as error:
        reading.problems += (Problem((line.split(":")[0],), line) for line in error.problems)
    return None


def _read_platform(reading: _Reading, environ: Mapping[str, str]) -> None:
    for variable, name in PLATFORM.items():
        text = environ.get(variable, "")
        if not text or name not in reading.known:
            continue
        if variable != "PORT":
            reading.put_text(name, text, variable)
        elif text.isdecimal() and 0 < int(text[:_PORT_DIGITS]) <= _HIGHEST_PORT and len(text) < _PORT_DIGITS:
            reading.put(name, f"0.0.0.0:{text}", variable)
        else:
            remedy = f"give a port from 1 to {_HIGHEST_PORT}, or unset it"
            reading.put_bad(name, f"bind: {text[:40]!r} is not a port; {remedy}", variable)


def _read_file(reading: _Reading, file: str | None, environ: Mapping[str, str]) -> None:
    if file is None:
        return
    import tomllib

    try:
        with open(file, "rb") as opened:
            table = tomllib.loads(opened.read().decode("utf-8-sig"))  # some editors begin a file with a mark
    except OSError as error:
        reading.complaints.append(f"config: {file!r} can't be read: {told(error, READABLE)}")
        return
    except UnicodeDecodeError:
        reading.complaints.append(f"config: {file!r} is not TOML: it is not UTF-8 text")
        return
    except (ValueError, RecursionError) as error:  # beside TOMLDecodeError: a number of 5,000 digits, 1,000 brackets
        reading.complaints.append(f"config: {file!r} is not TOML: {error}")
        return
    origin = file if file.isprintable() else ascii(file)
    for name, value in table.items():
        if name in reading.known and expansion.has(value):
            _put_expanded(reading, name, value, origin, environ)
        elif name in reading.known:
            reading.put(name, value, origin)
        else:
            remedy = _answer(reading, name) or did_you_mean(name, reading.known, "--print-config shows them all")
            shown = name if name and name.isprintable() else ascii(name)
            reading.complaints.append(f"{shown}: is not a setting; {remedy} (from {origin})")


def _answer(reading: _Reading, name: str) -> str:
    """What to say of a name that is another server's, or another command's; "" if it is neither."""
    from prefork.migration import answers

    return answers.to_name(name, reading.known) or reading.siblings(name)


def _put_expanded(reading: _Reading, name: str, value: object, origin: str, environ: Mapping[str, str]) -> None:
    """Take a value of a file that has variables in it; what became of a text is read as a variable's own would be."""
    try:
        found = expansion.expanded(value, environ)
    except ValueError as error:
        reading.put_bad(name, f"{name}: {error}", origin)
        return
    if isinstance(found, str):
        reading.put_text(name, found, origin)
    else:
        reading.put(name, found, origin)


def _read_environment(reading: _Reading, environ: Mapping[str, str]) -> None:
    variables = {field.env: name for name, field in reading.known.items()}
    for variable, text in environ.items():
        if not text or not variable.startswith(PREFIX) or variable == FILE_VARIABLE:
            continue
        if variable in variables:
            reading.put_text(variables[variable], text, variable)
        elif not _SERVICE_LINK.fullmatch(f"{variable}={text}"):
            theirs = _answer(reading, variable.removeprefix(PREFIX).lower())
            remedy = theirs or did_you_mean(variable, variables, "--print-config shows all settings")
            shown = variable if variable.isprintable() else ascii(variable)
            reading.complaints.append(f"{shown}: is not a variable of prefork's; {remedy}")


def _read_flags(reading: _Reading, flags: Mapping[str, object]) -> None:
    for name, value in flags.items():
        flag = reading.known[name].flag
        if isinstance(value, str):
            reading.put_text(name, value, flag)
        elif isinstance(value, list):
            reading.put(name, value[0] if len(value) == 1 else tuple(value), flag)
        elif value is not None:
            reading.put(name, value, flag if value else "--no-" + flag.removeprefix("--"))


def _toml(value: Plain) -> str:
    """One value in TOML. Text is printable here, and for that JSON's strings and TOML's are the same."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            return json.dumps(expansion.plain(value), ensure_ascii=False)
        case tuple():
            return f"[{', '.join(_toml(part) for part in value)}]"
