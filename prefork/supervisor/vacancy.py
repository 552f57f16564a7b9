"""A vacancy: an address that is still held by orphans, and is free as soon as they have returned to Python.

A master that is killed (SIGKILL) leaves workers that hear of it by a signal. One that is in C code, a hash or a query,
runs no handler before that returns, and listens until then; so a server that is started meanwhile finds the address in
use. It is no reason to give up at once, as it is where a server is alive: the orphans are on their way out.
"""

from __future__ import annotations

import logging

from prefork.errors import OrphansError
from prefork.supervisor.event_loop import Loop
from prefork.system.natives import time

log = logging.getLogger("prefork")

PATIENCE = 30.0
"""Seconds that a start waits for orphans at the most."""

PAUSE = 0.5
"""Seconds between two tries."""

_TICK = 0.05


class StoppedError(Exception):
    """The server was told to end before it had what it begins with."""


class Vacancy:
    """The wait of one start.

    Args:
        loop: says whether a signal has told the server to end.
        ends: the signals that do.
    """

    def __init__(self, loop: Loop, ends: frozenset[int]) -> None:
        self._loop = loop
        self._ends = ends
        self._deadline: float | None = None

    def wait(self, error: OrphansError) -> bool:
        """Wait a moment; whether it is worth another try.

        Raises:
            StoppedError: a signal has come that ends the server.
        """
        now = self._loop.clock.monotonic()
        if self._deadline is None:
            self._deadline = now + PATIENCE
            log.warning("%s; waiting up to %g s for its end", error.held, PATIENCE)
        pause = now + PAUSE
        while now < min(pause, self._deadline):
            if self._loop.heard(self._ends):
                raise StoppedError
            time.sleep(_TICK)
            now = self._loop.clock.monotonic()
        return now < self._deadline
