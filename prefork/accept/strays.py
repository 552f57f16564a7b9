"""Strays: exceptions that an application has raised in its worker while no connection is in hand.

A handler of a signal may raise, and so may another thread, in this one (PyThreadState_SetAsyncExc). What was meant for
a request comes late when that has just ended: an alarm, say, that a library for timeouts takes back too slowly.
"""

from __future__ import annotations

import logging

from prefork.system.natives import time
from prefork.system.throttle import Log, Throttle

MOST = 1000
"""How many in a row, each at once after the one before, are no accident any more."""

_AT_ONCE = 0.01  # seconds


class Strays:
    """Those of one worker.

    Args:
        log: where they are told.
    """

    def __init__(self, log: Log) -> None:
        self._throttle = Throttle(log)
        self._row = 0
        self._last = 0.0

    def outlive(self, error: BaseException) -> None:
        """Tell of ``error``, so that the worker can go on.

        Raises:
            BaseException: ``error``, when there is no end to them.
        """
        now = time.monotonic()
        self._row = self._row + 1 if now - self._last < _AT_ONCE else 1
        self._last = now
        if self._row > MOST:
            raise error
        # Ctrl-C comes to all processes of a terminal, and the master is who decides what it means.
        level = logging.DEBUG if isinstance(error, KeyboardInterrupt) else logging.ERROR
        kind = type(error).__name__
        self._throttle.tell(level, kind, "%s was raised while no connection was in hand; going on", kind, error=error)
