"""The command line is read as argparse reads it, without its cost."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.cli import flags
from prefork.config import settings
from prefork.errors import SettingsError

FIELDS = settings.fields()

WORDS = [
    *("hello:handle", "more", "", "-", "4", "-1", "-.5", "a b", "-a b", "--workes", "--workes=3", "-z", "-x=1"),
    *("-w", "-w4", "-w=4", "-w-1", "--workers", "--workers=4", "--workers=", "--workers=-1", "--workers=a=b"),
    *("-b", "-bunix:x=y", "--bind", "--bind=:1", "--preload", "--no-preload", "--no-preload=1", "--preload=yes"),
    *("--no-new-privs", "--no-new-privs=no", "-c", "-cfile", "--config=x", "--app-dir", "--app-dir=y"),
    *("--print-config", "--check", "--check=1", "-h", "--help"),
]


class Oracle(argparse.ArgumentParser):
    """What the reader has to agree with."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError(message.removeprefix("argument "))


def oracle() -> Oracle:
    parser = Oracle(add_help=False, allow_abbrev=False)
    parser.add_argument("target", nargs="?")
    parser.add_argument("-c", "--config")
    parser.add_argument("--app-dir", default=".")
    parser.add_argument("--print-config", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("-h", "--help", action="store_true")
    for field in FIELDS:
        action: Any = "append" if field.kind.repeats else "store"
        names = [field.short, field.flag] if field.short else [field.flag]
        parser.add_argument(
            *names, action=argparse.BooleanOptionalAction if field.kind.switch else action, dest=field.name
        )
    return parser


ORACLE = oracle()


def told(argv: Sequence[str]) -> object:
    """What argparse makes of it: the error, or what each flag says, and what is left over."""
    try:
        found, strange = ORACLE.parse_known_args(argv)
    except SettingsError as error:
        return str(error)
    return vars(found), bool(strange)


def read(argv: Sequence[str]) -> object:
    try:
        line = flags.read(argv, FIELDS)
    except SettingsError as error:
        return str(error)
    found = {**line.flags, "config": line.config, "app_dir": line.app_dir, "help": line.help}
    found |= {"print_config": line.print_config, "check": line.check, "target": line.target}
    return found, bool(line.complaints)


@given(st.lists(st.sampled_from(WORDS), max_size=6))
def test_the_command_line_is_read_as_argparse_reads_it(argv: list[str]) -> None:
    expected, found = told(argv), read(argv)
    if isinstance(expected, tuple) and isinstance(found, tuple) and found[0]["target"] is None:
        expected[0]["target"] = None  # it stands behind a flag that nobody knows, and was meant as its value
    assert found == expected


@pytest.mark.parametrize(
    ("argv", "target", "workers"),
    [
        (["--", "hello:handle"], "hello:handle", None),
        (["-w", "2", "--", "-x"], "-x", "2"),
        (["hello:handle", "--"], "hello:handle", None),
    ],
)
def test_behind_two_hyphens_there_are_no_flags(argv: list[str], target: str, workers: str | None) -> None:
    line = flags.read(argv, FIELDS)
    assert (line.target, line.flags["workers"], line.complaints) == (target, workers, ())


def test_two_hyphens_are_no_value() -> None:
    with pytest.raises(SettingsError, match=r"^-w/--workers: expected one argument$"):
        flags.read(["-w", "--"], FIELDS)
