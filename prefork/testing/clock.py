"""A clock that a test moves, for what decides by time."""

from __future__ import annotations


class FakeClock:
    """A `prefork.system.clock.Clock` that stands still until it is moved.

    Args:
        now: The first reading, in seconds. Not 0 by default: code that takes 0 for "never" shows itself.
    """

    def __init__(self, now: float = 1000.0) -> None:
        self._now = now

    def monotonic(self) -> float:
        """The reading, in seconds."""
        return self._now

    def advance(self, seconds: float) -> float:
        """Move it on.

        Args:
            seconds: By how much, 0 or more.

        Returns:
            The new reading.

        Raises:
            ValueError: When it would go back; a monotonic clock doesn't.
        """
        if seconds < 0:
            raise ValueError(f"a monotonic clock does not go back by {-seconds:g} s")
        self._now += seconds
        return self._now
