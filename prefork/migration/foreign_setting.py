"""One setting of another server, and what becomes of it here. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Takes = Literal["text", "whole", "list", "true", "false", "maybe", "dict", "function"]
"""What a setting is given: a text, a whole number, several texts, nothing on the command line (which makes it true, or
false), a text or nothing, and what only a file can say: a dictionary, a function."""

Weight = Literal["same", "info", "warning", "refused"]
"""How much it matters that there is no equal: not at all; it is told; something behaves otherwise; nothing works."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignSetting:
    """One setting of another server.

    Attributes:
        name: Its name there.
        flags: Its flags there.
        takes: What it is given.
        ours: The setting of ours that it becomes; "" for none.
        note: What is different, or what to do instead: a clause that begins in small letters.
        weight: What a value that is not the default is told as.
        default: Its default there, as far as that matters.
    """

    name: str
    flags: tuple[str, ...] = ()
    takes: Takes = "text"
    ours: str = ""
    note: str = ""
    weight: Weight = "same"
    default: object = None


def flag_of(name: str) -> str:
    """The flag of a setting of ours."""
    return f"--{name.replace('_', '-')}"


def by_name(rows: Iterable[ForeignSetting]) -> dict[str, ForeignSetting]:
    """Rows by the name of their setting."""
    return {row.name: row for row in rows}


def by_flag(rows: Iterable[ForeignSetting]) -> Mapping[str, ForeignSetting]:
    """Rows by their flags."""
    return {flag: row for row in rows for flag in row.flags}
