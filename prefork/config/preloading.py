"""The settings of the mold: that the application is loaded once, and what is done there before workers are made of it.

A part of the table of `prefork.config.settings.Settings`; see there.
"""

from __future__ import annotations

from typing import Final, Literal

from prefork.config import kinds
from prefork.config.fields import APPLICATION, SettingsTable, setting
from prefork.config.kinds import Kind


def _counts(noun: str) -> Kind[tuple[int, ...]]:
    """Counts, each for one time; the last may be 0. As text with commas between them.

    Args:
        noun: What is counted.
    """
    clause = f"is not a list of counts of {noun}; give such as 50,100,1000, the last of which may be 0"

    def parse(text: str) -> tuple[int, ...]:
        parts = [part.strip() for part in text.split(",") if part.strip()]
        try:
            return tuple(map(count.parse, parts))
        except ValueError:
            raise kinds.refusal(text, clause) from None

    def check(value: object) -> tuple[int, ...]:
        parts = value if isinstance(value, tuple | list) else (value,)
        found = [one for part in parts for one in (parse(part) if isinstance(part, str) else (part,))]
        try:
            checked = tuple(map(count.check, found))
        except ValueError:
            raise kinds.refusal(value, clause) from None
        if not all(checked[:-1]):
            raise kinds.refusal(value, clause)
        return checked if any(checked) else ()

    count = kinds.whole(f"a count of {noun}")
    return Kind("COUNT[,COUNT...]", parse, check, lambda value: ",".join(map(str, value)), repeats=True)


OF_MOLD: Final = {"fork_safety": "warn", "refork_after": (), "immortal": False}
"""Settings that say something of the mold alone, and what they are by default."""


class Preloading(SettingsTable, kw_only=True):
    """Of what workers are made. Not used by itself: `Settings` checks it."""

    preload: bool = setting(
        False,
        APPLICATION,
        kinds.switch(),
        "Load the application once, in a process beside the master (the mold) of which workers are forked: they share "
        "its memory, and are ready at once. A reload makes another one, of new code.",
    )
    fork_safety: Literal["warn", "refuse"] = setting(
        "warn",
        APPLICATION,
        kinds.choice("warn", "refuse"),
        "With preload: what becomes of a mold that has opened what does not come through a fork, such as threads, "
        "sockets or an event loop: warn names each in the log, refuse does not use it.",
    )
    refork_after: tuple[int, ...] = setting(
        (),
        APPLICATION,
        _counts("requests"),
        "With preload: when a worker has served this many, make another mold of the same code, warm it with the paths "
        "most asked for as well, and replace the workers one by one. Of several, each holds for one time and the last "
        "for all further ones; a last one of 0 ends it. Nothing means never.",
    )
    immortal: bool = setting(
        False,
        APPLICATION,
        kinds.switch(),
        "With preload: mark what the mold has loaded as immortal (PEP 683), so that workers copy less of its memory: "
        "nobody counts references to it. It is never freed. On CPython 3.12 and 3.13 alone.",
    )
