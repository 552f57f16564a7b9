"""Throttles: how a condition is told in the log. When it begins, now and then while it lasts, and when it ends.

Never for each retry: what fails is tried again many times a second, and a log that grows by a line each time fills the
disk of a server that is in trouble already. That holds for a condition that comes and goes as well: one that was told
of a moment ago is counted, and the next line about it says how often it was passed over.
"""

from __future__ import annotations

import logging
import mmap
from collections.abc import Hashable

from prefork.system.clock import SYSTEM, Clock

LONGEST = 8 * 1024
"""Characters of one text of a worker's that go into the log."""

SHORTEST = 256
"""The same while there is no room left."""

EXCERPTS = 24 * 1024
"""Characters of such texts that may come at once."""

EXCERPTS_PACE = 128
"""Characters a second that have room in the long run."""

Log = logging.Logger | logging.LoggerAdapter[logging.Logger]

INTERVAL = 30.0
"""Seconds between two lines about one and the same cause."""

BURST = 300
"""Lines of a :class:`TokenBucket` that may come at once."""

PACE = 1.0
"""Lines a second that it lets through in the long run."""


class Throttle:
    """One condition, which may have several causes.

    Args:
        log: where it is told.
        clock: where the time comes from.
    """

    def __init__(self, log: Log, clock: Clock = SYSTEM) -> None:
        self._log = log
        self._clock = clock
        self._told: dict[Hashable, float] = {}
        self._passed_over: dict[Hashable, int] = {}
        self._level: int | None = None

    def tell(
        self, level: int, cause: Hashable, message: str, *arguments: object, error: BaseException | None = None
    ) -> bool:
        """Say that the condition holds.

        Args:
            level: of the line, as in :mod:`logging`.
            cause: why; each is told by itself. There are few of them: an errno, a kind.
            message: as :mod:`logging` formats it.
            arguments: for ``message``.
            error: whose traceback follows the line.

        Returns:
            Whether there was a line; not when the same was told less than :data:`INTERVAL` ago.
        """
        now = self._clock.monotonic()
        told = self._told.get(cause)
        if told is not None and now - told < INTERVAL:
            self._passed_over[cause] += 1
            return False
        more = self._passed_over.get(cause, 0)
        self._passed_over[cause], self._level = 0, level
        self._told[cause] = now  # last: another thread that finds it looks for the count
        if more:
            message, arguments = f"{message} (and %d times more since this was last said)", (*arguments, more)
        self._log.log(level, message, *arguments, exc_info=error)
        return True

    def end(self, message: str, *arguments: object) -> None:
        """Say that the condition is over, if the last line said that it holds; as a warning at the most."""
        if self._level is not None:
            level, self._level = min(self._level, logging.WARNING), None
            self._log.log(level, message, *arguments)


class TokenBucket:
    """Lines of which each tells something else, but which a worker can bring about as often as it likes.

    Args:
        clock: where the time comes from.
        burst: lines that may come at once.
        pace: lines a second that are let through in the long run.
    """

    def __init__(self, clock: Clock = SYSTEM, *, burst: int = BURST, pace: float = PACE) -> None:
        self._clock = clock
        self._burst = burst
        self._pace = pace
        self._room = float(burst)
        self._at = clock.monotonic()
        self._passed_over = 0

    def lets_through(self) -> bool:
        """Whether there is room for a line now; when not, it is counted."""
        now = self._clock.monotonic()
        self._room = min(self._burst, self._room + (now - self._at) * self._pace)
        self._at = now
        if self._room < 1:
            self._passed_over += 1
            return False
        self._room -= 1
        return True

    def passed_over(self) -> int:
        """How many lines there was no room for since the last call."""
        count, self._passed_over = self._passed_over, 0
        return count


class SharedThrottle:
    """Conditions that any process of a server may find, and that one of them tells of for all.

    Made by the master, before it forks: what is shared is a page of memory (mmap(2), MAP_SHARED). Two that look at the
    same moment may both tell.

    Args:
        conditions: how many there are.
        interval: seconds between two lines about one of them.
        clock: where the time comes from.
    """

    def __init__(self, conditions: int, interval: float, clock: Clock = SYSTEM) -> None:
        self._interval = interval
        self._clock = clock
        self._due = memoryview(mmap.mmap(-1, 8 * conditions)).cast("d")

    def lets_through(self, condition: int) -> bool:
        """Whether a line about that condition is to be written now."""
        now = self._clock.monotonic()
        if now < self._due[condition]:
            return False
        self._due[condition] = now + self._interval
        return True


class Excerpts:
    """Texts that workers report, cut to what a log has room for: a traceback whole, a flood of them in part.

    Args:
        clock: where the time comes from.
    """

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._room = float(EXCERPTS)
        self._at = clock.monotonic()

    def of(self, text: str) -> str:
        """``text``, or its beginning and, since it says most, its end."""
        return self._cut(text, 0.75)

    def of_frames(self, text: str) -> str:
        """``text``, or its end and, since it says most, its beginning: faulthandler writes the innermost call first."""
        return self._cut(text, 0.25)

    def _cut(self, text: str, rest: float) -> str:
        now = self._clock.monotonic()
        self._room = min(EXCERPTS, self._room + (now - self._at) * EXCERPTS_PACE)
        self._at = now
        most = int(max(SHORTEST, min(LONGEST, self._room)))
        if len(text) > most:
            end = int(most * rest)
            text = f"{text[: most - end]}\n[{len(text) - most} characters left out]\n{text[-end:]}"
        self._room = max(0.0, self._room - len(text))  # a flood is paid for when it is over, and not for as long again
        return text
