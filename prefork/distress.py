"""What a worker does beside waiting when descriptors run out: find a leak, ask for a replacement, shed.

A leak shows before the limit is met. The kernel gives the lowest free number (socket(2)), so the number of an accepted
descriptor says how many are held below it, at the cost of one comparison. Beyond the watermark the worker asks for its
replacement and accepts nothing for a while: what is left below the limit is for its handler and for the log, not for
more connections, and its siblings serve. When the limit is met all the same, the worker backs off like any other; it
takes itself for leaking only if it holds more than it did after its boot.

All of it runs in the WORKER.
"""

from __future__ import annotations

import logging
import select
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

Log = logging.Logger | logging.LoggerAdapter[logging.Logger]

HEADROOM = 8
"""Descriptors below the limit at which a worker takes no more connections; and what it may hold beyond its boot."""

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
    """

    def __init__(
        self, seat: Seat, settings: Settings, log: Log, refuse: Callable[[socket.socket], object], workers: int
    ) -> None:
        self._seat = seat
        self._log = log
        self._refuse = refuse
        self._spare = Spare()
        self._sheds = settings.exhausted == "shed"
        self._interval = max(1, workers) / settings.shed_rate
        self._next_shed = 0.0
        self._shed = 0
        held = len(self._held())
        self._usual = held + HEADROOM
        self.watermark = max(limits.nofile() - HEADROOM, held + HEADROOM // 2)
        """An accepted descriptor with this number or a higher one says that this worker leaks."""

    def _held(self) -> list[int]:
        with self._spare:
            try:
                return descriptors()
            except OSError:
                return []

    def near_the_limit(self) -> bool:
        """An accepted descriptor was beyond the watermark, and has been served.

        Returns:
            Whether to accept nothing for up to :data:`QUARANTINE` seconds, until the replacement is there. Only the
            first time: without a replacement there is nothing better to do than to go on.
        """
        self.watermark = 1 << 30
        self._leaks()
        return True

    def starved(self, verdict: Verdict) -> None:
        """Accept failed for want of something."""
        if verdict is Verdict.BACK_OFF_WORKER and self.watermark < 1 << 30 and len(self._held()) > self._usual:
            self.watermark = 1 << 30
            self._leaks()

    def _leaks(self) -> None:
        """Say what is held, and ask for a replacement."""
        with self._spare:
            try:
                held = census()
            except OSError as error:
                held = [f"unknown: {error}"]
        self._log.error("this worker leaks descriptors and is to be replaced; it holds %s", "; ".join(held))
        self._seat.tell(Kind.RECYCLE_ME, Why.LEAK)

    def shed(self, listener: socket.socket, accept: Callable[[], tuple[int, Any]]) -> tuple[int, Any] | None:
        """Accept with the spare descriptor and refuse, while every worker is exhausted.

        Returns:
            A connection that is to be served after all, because there are descriptors again; else None.
        """
        if not self._sheds:
            return None
        while self._seat.board.exhausted and self._spare.held and _waits(listener):
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


def _waits(listener: socket.socket) -> bool:
    """Whether a connection waits now; a sibling may be faster all the same."""
    poller = select.poll()
    poller.register(listener.fileno(), select.POLLIN)
    return bool(poller.poll(0))
