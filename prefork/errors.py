"""What prefork raises, and the exit code that the command makes of each.

Every error here says what is wrong in words that a user can act on; the command prints those words and no
traceback. An exception of another type is a defect, of the application or of prefork, and its traceback is
shown.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar


class PreforkError(Exception):
    """Base of all errors that prefork raises on purpose.

    Attributes:
        exit_code: The exit code of the command when this error ends it.
    """

    exit_code: ClassVar[int] = 1


class SettingsError(PreforkError):
    """A configuration can't be used. All of its problems are reported together.

    Args:
        problems: One line each, naming the setting, its value and the remedy. A single string is one problem.

    Attributes:
        problems: Those lines, in the order found.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)


class TargetError(PreforkError):
    """``module:attribute`` does not lead to something that can be served."""

    exit_code: ClassVar[int] = 2


class ListenError(PreforkError):
    """An address can't be listened on, or an inherited socket can't be adopted."""

    exit_code: ClassVar[int] = 3


class InUseError(ListenError):
    """Somebody else has the address: whether it can be had changes with who runs, not with the settings."""


class OrphansError(InUseError):
    """An address is held by workers whose master was killed, and by nobody else.

    Args:
        held: Who holds it, in one line.
        remedy: What to do if they stay.

    Attributes:
        held: That line.
    """

    def __init__(self, held: str, remedy: str) -> None:
        super().__init__(f"{held}; {remedy}")
        self.held = held


class RefusedError(PreforkError):
    """The system refuses what a server can't be without: a sandbox, a limit, no memory."""

    exit_code: ClassVar[int] = 3


class ListenerLostError(PreforkError):
    """A listening socket that worked has stopped being one, and accepting from it can't go on."""

    exit_code: ClassVar[int] = 3


class BootError(PreforkError):
    """The application failed to start in the first generation of workers."""

    exit_code: ClassVar[int] = 4


class ControlError(PreforkError):
    """A running server can't be reached, or did not do what it was asked for."""


def did_you_mean(word: str, known: Iterable[str], otherwise: str) -> str:
    """The remedy for a word that nobody knows: the known ones that are nearly the same.

    Args:
        word: What was given.
        known: What could have been meant.
        otherwise: The remedy when nothing is close.
    """
    import difflib  # who makes no mistake doesn't wait for it

    close = difflib.get_close_matches(word, known, n=2, cutoff=0.6)
    return f"did you mean {' or '.join(close)}?" if close else otherwise


def printable(text: str) -> str:
    """``text`` in one line that harms no terminal, whatever is in it: what can't be printed is escaped."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def printable_lines(text: str) -> str:
    """As :func:`printable`, but lines stay lines, and tabs tabs: for a traceback, or a page."""
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else ascii(char)[1:-1] for char in text)
