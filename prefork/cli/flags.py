"""The command line of a command that serves: its flags and its help derive from the tables of settings.

Reading it decides nothing: values stay text, and what is wrong is collected, so that it can be reported together with
what is wrong elsewhere.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

from prefork.config.fields import Field
from prefork.errors import SettingsError, did_you_mean
from prefork.system.record import Record

_INDENT: Final = 30  # columns in front of the help of a flag
_OWN: Final = (
    ("-c, --config FILE", "Read settings from this TOML file; its keys are the names of the flags with underscores."),
    ("--app-dir FOLDER", "Look for the application here first. (default: the current folder)"),
    ("--print-config", "Print what holds and where each value came from, as TOML, and exit."),
    ("--check", "Say whether it would start, without listening, and exit."),
    ("-h, --help", "Print this and exit."),
)

_NEGATIVE: Final = re.compile(r"-(\d+|\d*\.\d+)")
"""A number, which no flag looks like."""


class CommandLine(Record, kw_only=True):
    """What a command line says.

    Attributes:
        target: What to serve; None when it is missing.
        config: The file that ``--config`` names.
        app_dir: The folder that ``--app-dir`` names.
        print_config: Whether the configuration is asked for.
        check: Whether only a check is asked for.
        help: Whether the help is asked for.
        flags: What was given for each setting: text, a bool, a list of texts, or None.
        complaints: One line for each thing that is wrong.
    """

    target: str | None
    config: str | None
    app_dir: str
    print_config: bool
    check: bool
    help: bool
    flags: Mapping[str, object]
    complaints: tuple[str, ...]


class _Flag(NamedTuple):
    """One flag.

    Attributes:
        name: What it is the flag of.
        names: All that it is called.
        valued: Whether a value stands behind it.
        repeats: Whether it may be given several times, each adding a value.
    """

    name: str
    names: tuple[str, ...]
    valued: bool = True
    repeats: bool = False


_OF_THE_COMMAND: Final = (
    _Flag("--config", ("-c", "--config")),
    _Flag("--app-dir", ("--app-dir",)),
    _Flag("--print-config", ("--print-config",), valued=False),
    _Flag("--check", ("--check",), valued=False),
    _Flag("--help", ("-h", "--help"), valued=False),
)


def read(argv: Sequence[str], fields: Iterable[Field], siblings: Callable[[str], str] = lambda _: "") -> CommandLine:
    """Read the arguments of a command that serves, as argparse would that takes no abbreviations.

    Args:
        argv: The arguments behind the command's name.
        fields: The settings that have flags.
        siblings: Says of a setting's name whether another command of ours has it; "" if none has.

    Raises:
        SettingsError: A flag lacks its value or has one too many; nothing behind it can be understood then.
    """
    fields = tuple(fields)
    known = {name: flag for flag in (*_OF_THE_COMMAND, *map(_flag, fields)) for name in flag.names}
    said: dict[str, Any] = {}
    target: str | None = None
    strange: list[str] = []
    words = deque(argv)
    flags = True
    while words:
        word = words.popleft()
        if flags and word == "--":
            flags = False  # what follows are none, whatever they begin with
            continue
        found = _split(word, known) if flags else None
        if found is not None and found[0] in known:
            name, value = found
            _take(known[name], name, value, words, known, said)
        elif found is None and target is None:
            target = word
        else:
            strange.append(word)
    # What stands behind a flag that nobody knows was meant as its value, not as the target.
    taken = any(flag in strange and value == target for flag, value in pairwise(argv))
    return CommandLine(
        target=None if taken else target,
        config=said.get("--config"),
        app_dir=said.get("--app-dir", "."),
        print_config=said.get("--print-config", False),
        check=said.get("--check", False),
        help=said.get("--help", False),
        flags={field.name: said.get(field.name) for field in fields},
        complaints=tuple(_complaints(strange, target, fields, siblings)),
    )


def _flag(field: Field) -> _Flag:
    names = (field.short, *_names(field)) if field.short else tuple(_names(field))
    return _Flag(field.name, names, not field.kind.switch, field.kind.repeats)


def _split(word: str, known: Collection[str]) -> tuple[str, str | None] | None:
    """The flag that a word is, and the value that stands in it; None for a word that is none."""
    if not word.startswith("-") or word == "-":
        return None
    if word in known:
        return word, None
    name, sign, value = word.partition("=")
    if sign and name in known:
        return name, value
    if not word.startswith("--") and word[:2] in known:
        return word[:2], word[2:]
    return None if _NEGATIVE.fullmatch(word) or " " in word else (word, None)


def _take(
    flag: _Flag, name: str, value: str | None, words: deque[str], known: Collection[str], said: dict[str, Any]
) -> None:
    """Note what a flag says: the value in it, or the word behind it, or that it is there."""
    if not flag.valued:
        if value is not None:
            raise SettingsError(f"{'/'.join(flag.names)}: ignored explicit argument {value!r}")
        said[flag.name] = not name.startswith("--no-")
        return
    if value is None:
        if not words or words[0] == "--" or _split(words[0], known) is not None:
            raise SettingsError(f"{'/'.join(flag.names)}: expected one argument")
        value = words.popleft()
    if flag.repeats:
        said.setdefault(flag.name, []).append(value)
    else:
        said[flag.name] = value


def _complaints(
    strange: Sequence[str], target: str | None, fields: Iterable[Field], siblings: Callable[[str], str]
) -> Iterable[str]:
    flags = [argument.partition("=")[0] for argument in strange if argument.startswith("-") and argument != "-"]
    if flags:
        from prefork.migration import answers

        known = [name for field in fields for name in _names(field)] + [
            "--config",
            "--app-dir",
            "--print-config",
            "--check",
        ]
        for flag in flags:
            name = flag.removeprefix("--").removeprefix("no-").replace("-", "_")
            remedy = (
                answers.to_flag(flag, known) or siblings(name) or did_you_mean(flag, known, "--help lists them all")
            )
            yield f"{flag!r} is not a flag; {remedy}"
        return  # what else is left over may be their values
    for argument in strange:
        yield f"{argument!r} is one argument too many beside {target!r}; give one target"


def _names(field: Field) -> list[str]:
    return [field.flag, "--no-" + field.flag.removeprefix("--")] if field.kind.switch else [field.flag]


def help_text(usage: str, about: str, fields: Sequence[Field], groups: Iterable[str], epilog: str) -> str:
    """The help of a command that serves, as wide as the terminal but no wider than is good to read.

    Args:
        usage: How the command is called.
        about: What it does: paragraphs, to be filled.
        fields: The settings that it has.
        groups: Their headings, in order.
        epilog: What follows, printed as it is.
    """
    import shutil
    import textwrap

    width = min(100, max(60, shutil.get_terminal_size().columns))
    parts = [f"usage: {usage}"]
    parts += [textwrap.fill(paragraph, width) for paragraph in about.split("\n\n")]
    for group in groups:
        entries = [_entry(_invocation(f), _described(f), width) for f in fields if f.group == group]
        parts.append("\n".join([f"{group}:", *entries]))
    parts.append("\n".join(["This command:", *(_entry(invocation, text, width) for invocation, text in _OWN)]))
    parts.append(epilog)
    return "\n\n".join(parts) + "\n"


def _invocation(field: Field) -> str:
    names = ", ".join([field.short, *_names(field)] if field.short else _names(field))
    return names if field.kind.switch else f"{names} {field.kind.metavar}"


def _described(field: Field) -> str:
    return f"{field.help} (default: {field.kind.show(field.default) or 'none'})"


def _entry(invocation: str, text: str, width: int) -> str:
    start = f"  {invocation}"
    import textwrap

    lines = textwrap.wrap(text, width - _INDENT)
    if len(start) + 2 <= _INDENT:
        start, lines = start.ljust(_INDENT) + lines[0], lines[1:]
    return "\n".join([start, *(" " * _INDENT + line for line in lines)])
