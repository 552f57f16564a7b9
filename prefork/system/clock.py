"""The monotonic clock behind a seam, so that decisions about time can be tested without waiting."""

from __future__ import annotations

from typing import Final, Protocol

from prefork.system.natives import time


class Clock(Protocol):
    """What tells the time to everything that decides by it."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never goes back, the same in every process of the host.

        The moment is the boot on Linux (``CLOCK_MONOTONIC``, clock_gettime(2)), so a reading that a worker
        stores in shared memory can be compared with one that the master takes.
        """
        ...


class _System:
    """The kernel's ``CLOCK_MONOTONIC``."""

    __slots__ = ()

    # The built-in itself: a worker reads the clock for every connection, and a wrapper would double the cost.
    monotonic = staticmethod(time.monotonic)


SYSTEM: Final[Clock] = _System()
"""The clock that everything uses unless it is given another."""
