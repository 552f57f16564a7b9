"""How many workers there should be between ``min_workers`` and ``max_workers``: pure, fed with samples.

Grow while connections wait and nobody is idle, in doubling steps, each when the last step's workers serve. Shrink by
as many workers as were idle at every moment of the last ``idle_timeout`` seconds: so a load that comes and goes within
that time changes nothing, and a smaller number would have been enough throughout.
"""

from __future__ import annotations

from dataclasses import dataclass

LOOK = 0.1
"""Seconds between two samples while there is something to do."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The load at one moment."""

    size: int
    """How many workers are wanted at present."""
    serving: int
    """How many of them are READY."""
    busy: int
    waiting: int
    """Connections in the accept queues."""
    finished: int
    """Connections finished since the start, by all workers; only whether it changes matters."""


class Sizer:
    """One server's size.

    Args:
        smallest: the fewest workers (count).
        largest: the most workers (count).
        idle_timeout: seconds.
    """

    def __init__(self, smallest: int, largest: int, idle_timeout: float) -> None:
        self._smallest = smallest
        self._largest = largest
        self._idle_timeout = idle_timeout
        self._step = 1
        self._window: float | None = None
        self._spare = 0
        self._finished = 0
        self._resting = False

    def observe(self, sample: Sample, now: float) -> tuple[int, float | None]:
        """Take a sample.

        Args:
            sample: the load.
            now: monotonic seconds.

        Returns:
            The wanted size, and when to sample again: None when there is no need until a worker takes the last idle
            place.
        """
        active = bool(sample.busy or sample.waiting or sample.finished != self._finished)
        self._finished = sample.finished
        size = self._grown(sample)
        spare = 0 if sample.waiting else sample.size - sample.busy
        if size > sample.size or spare == 0 or (active and self._resting):
            # Nobody was idle, or something has happened since nobody looked: what was seen before proves nothing.
            self._window = None
        if self._window is None and spare:
            self._window, self._spare = now, spare
        self._spare = min(self._spare, spare)
        if self._window is not None and now - self._window >= self._idle_timeout:
            size = max(self._smallest, sample.size - self._spare)
            self._window, self._spare = now, max(size - sample.busy, 0)
        self._resting = not active
        if active and (size > self._smallest or sample.busy >= sample.size):
            return size, now + LOOK
        if size > self._smallest and self._window is not None:
            # Nothing happens: no need to look before the window closes.
            return size, self._window + self._idle_timeout
        self._window = None
        return size, None

    def _grown(self, sample: Sample) -> int:
        if not sample.waiting or sample.busy < sample.serving:
            self._step = 1
            return sample.size
        if sample.serving < sample.size:
            return sample.size  # the last step's workers are still starting
        size = min(self._largest, sample.size + self._step)
        self._step *= 2
        return size
