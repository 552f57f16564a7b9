"""How long to wait before trying again: capped growth with jitter.

`Backoff` is the pure rule, `Retry` counts attempts for one thing that is tried again and again. Neither
sleeps: how the wait is interrupted is the caller's affair.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from prefork.system.natives import os
from prefork.system.record import Record


class Backoff(Record):
    """Delays that grow from ``initial`` by ``factor`` up to ``maximum``, each shortened by a random part.

    Jitter only shortens. So the cap holds exactly, and processes that failed together spread out even when
    all of them have reached it.

    Args:
        initial: The first delay, in seconds; at least 0.
        factor: What the next delay is multiplied by; at least 1.
        maximum: The longest delay, in seconds; at least ``initial``.
        jitter: The part of a delay that chance may take away, 0 (none) to 1 (all).

    Raises:
        ValueError: A parameter is out of its range.
    """

    initial: float
    factor: float
    maximum: float
    jitter: float

    def __init__(self, initial: float, factor: float, maximum: float, jitter: float) -> None:
        # Each comparison is false for nan, and is written so that false means refused.
        if not 0 <= initial <= maximum < math.inf:
            raise ValueError(f"delays of {initial} to {maximum} s don't grow from 0 or more to a finite cap")
        if not 1 <= factor < math.inf:
            raise ValueError(f"a factor of {factor} does not grow; give 1 or more")
        if not 0 <= jitter <= 1:
            raise ValueError(f"a jitter of {jitter} is not a fraction; give 0 to 1")
        super().__init__(initial, factor, maximum, jitter)

    def delay(self, attempt: int, random: float) -> float:
        """The seconds to wait before one attempt. Pure.

        Args:
            attempt: How many delays were given since the last success: 0 after the first failure.
            random: Where in the jitter this delay falls, 0 <= random < 1.

        Returns:
            Seconds, from ``1 - jitter`` of the full delay up to all of it; never more than ``maximum``.
        """
        return self._full(attempt) * (1.0 - self.jitter * random)

    def _full(self, attempt: int) -> float:
        try:
            grown: float = self.initial * self.factor**attempt
        except OverflowError:
            grown = math.inf
        # 0 * inf is nan, and a backoff that starts at zero stays there.
        return min(grown, self.maximum) if self.initial else 0.0


def chance() -> float:
    """A random number, 0 <= n < 1, of the system's (getrandom(2)).

    Not from the random module: the application may have seeded that alike in all workers, and a process that has
    imported it seeds it anew in each child, which takes a good part of a worker's boot.
    """
    return int.from_bytes(os.urandom(4)) / 2**32


class Retry:
    """The attempts at one thing: the delay before the next. It is forgotten when one succeeds.

    Args:
        backoff: The rule.
        rng: Gives the jitter's random numbers, 0 <= n < 1; in each process others.
    """

    __slots__ = ("attempts", "backoff", "rng")

    def __init__(self, backoff: Backoff, rng: Callable[[], float] = chance) -> None:
        self.backoff = backoff
        self.rng = rng
        self.attempts = 0
        """How many delays were given."""

    def next(self) -> float:
        """Count one failure and return the seconds to wait before the next attempt."""
        delay = self.backoff.delay(self.attempts, self.rng())
        self.attempts += 1
        return delay
