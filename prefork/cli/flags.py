"""The command line of a command that serves: its flags and its help derive from the tables of settings.

Reading it decides nothing: values stay text, and what is wrong is collected, so that it can be reported together with
what is wrong elsewhere.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, NoReturn

from prefork.config.fields import Field
from prefork.errors import SettingsError, did_you_mean

_INDENT: Final = 30  # columns in front of the help of a flag
_OWN: Final = (
    ("-c, --config FILE", "Read settings from this TOML file; its keys are the names of the flags with underscores."),
    ("--app-dir FOLDER", "Look for the application here first. (default: the current folder)"),
    ("--print-config", "Print what holds and where each value came from, as TOML, and exit."),
    ("--check", "Say whether it would start, without listening, and exit."),
    ("-h, --help", "Print this and exit."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLine:
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


class _FlagParser(argparse.ArgumentParser):
    """One that raises where argparse exits."""

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong as one line that begins with the flag."""
        raise SettingsError(message.removeprefix("argument "))


def read(argv: Sequence[str], fields: Iterable[Field]) -> CommandLine:
    """Read the arguments of a command that serves.

    Args:
        argv: The arguments behind the command's name.
        fields: The settings that have flags.

    Raises:
        SettingsError: A flag lacks its value or has one too many; nothing behind it can be understood then.
    """
    fields = tuple(fields)
    parser = _FlagParser(add_help=False, allow_abbrev=False)
    parser.add_argument("target", nargs="?")
    parser.add_argument("-c", "--config")
    parser.add_argument("--app-dir", default=".")
    parser.add_argument("--print-config", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("-h", "--help", action="store_true")
    for field in fields:
        action: Any = "store"
        if field.kind.switch:
            action = argparse.BooleanOptionalAction
        elif field.kind.repeats:
            action = "append"
        names = [field.short, field.flag] if field.short else [field.flag]
        parser.add_argument(*names, action=action, dest=field.name)
    found, strange = parser.parse_known_args(argv)
    # What stands behind a flag that nobody knows was meant as its value, not as the target.
    taken = any(flag in strange and value == found.target for flag, value in pairwise(argv))
    return CommandLine(
        target=None if taken else found.target,
        config=found.config,
        app_dir=found.app_dir,
        print_config=found.print_config,
        check=found.check,
        help=found.help,
        flags={field.name: getattr(found, field.name) for field in fields},
        complaints=tuple(_complaints(strange, found.target, fields)),
    )


def _complaints(strange: Sequence[str], target: str | None, fields: Iterable[Field]) -> Iterable[str]:
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
            remedy = answers.to_flag(flag, known) or did_you_mean(flag, known, "--help lists them all")
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
