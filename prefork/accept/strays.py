"""Strays: exceptions that an application has raised in its worker while no connection is in hand.

A handler of a signal may raise, and so may another thread, in this one (PyThreadState_SetAsyncExc). What was meant for
a request comes late when that has just ended: an alarm, say, that a library for timeouts takes back too slowly.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from prefork.scoreboard.entry import Lane
from prefork.system.clock import SYSTEM, Clock
from prefork.system.throttle import Log, Throttle

MOST = 1000
"""How many without a connection served in between are no accident any more."""

_FORGIVEN = 0.1  # seconds in which one of them is


class Strays:
    """Those of one worker.

    What is wrong with the worker itself, because its descriptors were closed for instance, comes again at once and for
    ever, and none is served. How soon "at once" is depends on how much else the machine does, so it is counted against
    what time forgives, not by the distance of one from the next.

    Args:
        log: where they are told.
        lanes: who serves.
        clock: where the time comes from.
    """

    def __init__(self, log: Log, lanes: Iterable[Lane], clock: Clock = SYSTEM) -> None:
        self._throttle = Throttle(log)
        self._lanes = tuple(lanes)
        self._clock = clock
        self._count = 0.0
        self._last = 0.0
        self._served = -1

    def outlive(self, error: BaseException) -> None:
        """Tell of ``error``, so that the worker can go on.

        Raises:
            BaseException: ``error``, when there is no end to them.
        """
        now, served = self._clock.monotonic(), sum(lane.served for lane in self._lanes)
        forgiven = self._count if served != self._served else (now - self._last) / _FORGIVEN
        self._count = max(0.0, self._count - forgiven) + 1
        self._last, self._served = now, served
        if self._count > MOST:
            raise error
        # Ctrl-C comes to all processes of a terminal, and the master is who decides what it means.
        level = logging.DEBUG if isinstance(error, KeyboardInterrupt) else logging.ERROR
        kind = type(error).__name__
        self._throttle.tell(level, kind, "%s was raised while no connection was in hand; going on", kind, error=error)
