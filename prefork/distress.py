"""What a worker does beside waiting when descriptors run out: find a leak, ask for a replacement, shed.

A leak shows before the limit is met. The kernel gives the lowest free number (open(2)), so once the descriptor with a
high number is open, nearly all below it are, or were. Every few connections the worker looks whether the one at the
*watermark* is open, for one system call. If it is, the worker asks for its replacement and accepts nothing for a while:
what is left below the limit is for its handler and for the log, not for more connections, and its siblings serve. (The
number of an accepted descriptor says nothing: it is the lowest free one again and again, and what the handler leaks
lies above it.) When the limit is met all the same, the worker backs off like any other; it takes itself for leaking
only if it holds more than it did after its boot.

All of it runs in the WORKER.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from typing import Any

from prefork.events import Kind, Why
from prefork.net.verdict import Verdict
from prefork.seat import Seat
from prefork.settings import Settings
from prefork.system import limits
from prefork.system.census import Spare, census, descriptors
from prefork.system.waiting import readable

_NEVER = -1

Log = logging.Logger | logging.LoggerAdapter[logging.Logger]

HEADROOM = 24
"""Descriptors below the limit that a leaking worker leaves untouched, so far as the limit has room for so many."""

QUARANTINE = 5.0
"""Seconds for which a leaking worker waits for its replacement before it goes on."""


class Distress:
    """WORKER. One worker's want of descriptors.

    Args:
        seat: this worker's seat.
        settings: exhausted, shed_rate (connections a second, of the whole server).
        log: where a leak is told.
        refuse: answers a connection that is shed; it is closed afterwards.
        workers: how many workers share ``shed_rate`` (count).
        many: whether this worker holds many connections at once, and nothing about its descriptors tells a leak.
    """

    def __init__(
        self,
        seat: Seat,
        settings: Settings,
        log: Log,
        refuse: Callable[[socket.socket], object],
        workers: int,
        *,
        many: bool = False,
    ) -> None:
        self._seat = seat
        self._log = log
        self._refuse = refuse
        self._spare = Spare()
        self._sheds = settings.exhausted == "shed"
        self._interval = max(1, workers) / settings.shed_rate
        self._next_shed = 0.0
        self._shed = 0
        held, limit = len(self._held()), limits.nofile()
        headroom = min(HEADROOM, max(0, limit - held) // 2)
        self._usual = held + headroom // 2
        self._watermark = _NEVER if many else limit - headroom

    def _held(self) -> list[int]:
        with self._spare:
            try:
                return descriptors()
            except OSError:
                return []

    def leaks(self) -> bool:
        """Look, for one system call, whether this worker leaks; to be called every few connections.

        Returns:
            Whether to accept nothing for up to :data:`QUARANTINE` seconds, until the replacement is there. True once:
            without a replacement there is nothing better to do than to go on.
        """
        try:
            os.fstat(self._watermark)
        except OSError:
            return False
        return self._confess()

    def starved(self, verdict: Verdict) -> None:
        """Accept failed for want of something."""
        if verdict is Verdict.BACK_OFF_WORKER and self._watermark >= 0:
            self._confess()

    def _confess(self) -> bool:
        """If this worker holds more than is usual, say what, and ask for a replacement; once."""
        self._watermark = _NEVER
        held = self._held()
        if len(held) <= self._usual:
            return False
        with self._spare:
            kinds = census(held)
        self._log.error("this worker leaks descriptors and is to be replaced; it holds %s", "; ".join(kinds))
        self._seat.tell(Kind.RECYCLE_ME, Why.LEAK)
        return True

    def shed(self, listener: socket.socket, accept: Callable[[], tuple[int, Any]]) -> tuple[int, Any] | None:
        """Accept with the spare descriptor and refuse, while every worker is exhausted.

        Returns:
            A connection that is to be served after all, because there are descriptors again; else None.
        """
        if not self._sheds:
            return None
        while self._seat.board.exhausted and self._spare.held and readable(listener.fileno()):
            now = time.monotonic()
            if now < self._next_shed:
                return None
            self._next_shed = now + self._interval
            self._spare.give()
            try:
                accepted = accept()
            except OSError:
                self._spare.take()
                return None
            if self._spare.take():
                return accepted
            self._turn_away(socket.socket(listener.family, listener.type, listener.proto, accepted[0]))
            self._spare.take()
        return None

    def _turn_away(self, connection: socket.socket) -> None:
        with connection:
            try:
                connection.settimeout(1.0)
                self._refuse(connection)
            except Exception:  # noqa: BLE001  # whatever the application's answer fails of, the connection is closed
                self._log.exception("refuse() failed")
        self._shed += 1
        self._seat.refused(self._shed)
