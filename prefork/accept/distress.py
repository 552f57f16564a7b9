"""What a worker does beside waiting when descriptors run out: find a leak, ask for a replacement, shed.

A leak shows before the limit is met. The kernel gives the lowest free number (open(2)), so once the descriptor with a
high number is open, nearly all below it are, or were. Every few connections the worker looks whether the one at the
*watermark* is open, for one system call. If it is, the worker asks for its replacement and accepts nothing for a while:
what is left below the limit is for its handler and for the log, not for more connections, and its siblings serve. (The
number of an accepted descriptor says nothing: it is the lowest free one again and again, and what the handler leaks
lies above it.) When accept or a handler meets the limit all the same, the worker looks at once; it takes itself for
leaking only if it holds more than it did after its boot.

A loop of the application's own may have many connections in hand, each with descriptors of its own, and that is no
leak: such a worker takes itself for leaking only while it has no more than one.

All of it runs in the WORKER.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence, Sized
from typing import Any

from prefork.config.settings import Settings
from prefork.net.lingering import ours
from prefork.scoreboard.entry import Entry
from prefork.scoreboard.events import Why
from prefork.system.descriptors import Spare, accepted, census, descriptors, held, readable
from prefork.system.limits import nofile
from prefork.system.natives import socket
from prefork.system.throttle import Log

_NEVER = -1

HEADROOM = 24
"""Descriptors below the limit that a leaking worker leaves untouched, so far as the limit has room for so many."""

ROUND = 16
"""Connections between two looks for a leak, at the most; less where there is not room for so many leaked ones."""

QUARANTINE = 5.0
"""Seconds for which a leaking worker waits for its replacement before it goes on."""


LOOK_AGAIN = 5.0
"""Seconds between two looks for a leak at the limit of descriptors; a look costs some system calls a descriptor."""

ANSWER_TIME = 1.0
"""Seconds that the answer to a connection that is shed may take to send."""


class Distress:
    """WORKER. One worker's want of descriptors. The master makes it, and the worker begins it.

    Args:
        entry: this worker's entry.
        settings: exhausted, shed_rate (connections a second, of the whole server).
        log: where a leak is told.
        workers: how many workers share ``shed_rate`` (count).

    Attributes:
        round: connections between two looks for a leak (count).
        parked: the connections that are kept: no leak.
    """

    parked: Sized = ()
    _next_shed = 0.0
    _shed = 0
    _confessed = False
    _next_look = 0.0

    def __init__(
        self,
        entry: Entry,
        settings: Settings,
        log: Log,
        workers: int,
    ) -> None:
        self._entry = entry
        self._log = log
        self._spare = Spare()
        self._settings = settings
        self._workers = workers

    def begin(self, refuse: Callable[[socket.socket], object], listeners: Sequence[socket.socket] = ()) -> None:
        """Take a descriptor in reserve, and see how many are usual; once the application has what it needs.

        Args:
            refuse: answers a connection that is shed; it is closed afterwards.
            listeners: what this worker listens on, if it may have several connections in hand; else nothing.
        """
        self._refuse = refuse
        self._listeners = listeners
        self._spare.take()
        usual, limit = _count(), nofile()
        headroom = min(HEADROOM, max(0, limit - usual) // 2)
        self._usual = usual + headroom // 2
        self.round = max(1, min(ROUND, headroom * 2 // 3))
        self._watermark = limit - headroom

    # Leaks.

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
        ours.dismiss()  # these are no leak, and would be taken for one
        if self._listeners and not self._look_now():
            return False
        held = self._held()
        if self._confess(held):
            self._watermark = _NEVER
            return True
        if not self._listeners:
            # The application uses a number up there on purpose (dup2): look at one that it doesn't.
            self._watermark = next(number for number in range(self._watermark, _NEVER - 1, -1) if number not in held)
        return False

    def exhausted(self) -> bool:
        """This process has met its limit, in accept or in a handler: see whether it is by a leak.

        Returns:
            As :meth:`leaks`.
        """
        ours.dismiss()
        return self._look_now() and self._confess(self._held())

    def _look_now(self) -> bool:
        """Whether it is time to look at all descriptors again."""
        now = time.monotonic()
        if now < self._next_look:
            return False
        self._next_look = now + LOOK_AGAIN
        return True

    def _held(self) -> set[int]:
        """The descriptors that are open; nothing when that can't be told."""
        with self._spare:
            try:
                return set(descriptors())
            except OSError:
                return set()

    def _confess(self, held: set[int]) -> bool:
        """If this worker holds more than is usual, say what, and ask for a replacement; once."""
        if self._confessed or len(held) - len(self.parked) <= self._usual:
            return False
        if accepted(held, self._listeners) > 1:
            return False
        kinds = census(held)
        self._confessed = True
        self._log.error("this worker leaks descriptors and is to be replaced; it holds %s", "; ".join(kinds))
        self._entry.wish(Why.LEAK)
        return True

    # Shedding.

    @property
    def sheds(self) -> bool:
        """Whether connections are to be refused now: it is wanted, and every worker is exhausted."""
        return self._settings.exhausted == "shed" and self._entry.board.all_exhausted and self._spare.take()

    @property
    def may_shed(self) -> bool:
        """Whether one is to be refused at this moment."""
        return self.sheds and not self.pause

    @property
    def pause(self) -> float:
        """Seconds until the next may be shed."""
        return max(0.0, self._next_shed - time.monotonic())

    def shed(self, listener: socket.socket) -> tuple[int, Any] | None:
        """Accept one connection with the spare descriptor and refuse it.

        Returns:
            The connection's descriptor and its peer's address if it is to be served after all, because there are
            descriptors again; else None.
        """
        if not readable(listener.fileno()):
            return None
        # While the system is exhausted, one worker probes and all others hold: it has the rate of all.
        sharers = 1 if self._entry.board.hold else self._workers
        self._next_shed = time.monotonic() + sharers / self._settings.shed_rate
        self._spare.give()
        try:
            raw: tuple[int, Any] = listener._accept()  # type: ignore[attr-defined]  # as the acceptor does
        except OSError:
            self._spare.take()
            return None
        # A sibling may have been faster, and accept has blocked: it is another day then.
        if self._spare.take() or not self._entry.board.all_exhausted:
            return raw
        self._turn_away(socket.socket(listener.family, listener.type, listener.proto, raw[0]))
        self._spare.take()
        return None

    def _turn_away(self, connection: socket.socket) -> None:
        with connection:
            try:
                connection.settimeout(ANSWER_TIME)
                self._refuse(connection)
            except Exception:  # noqa: BLE001  # whatever the application's answer fails of, the connection is closed
                self._log.exception("refuse() failed")
            _read_what_is_there(connection)
        self._shed += 1
        self._entry.refused(self._shed)


def _count() -> int:
    """How many descriptors this process holds; 0 when that can't be told."""
    try:
        return held()
    except OSError:
        return 0


def _read_what_is_there(connection: socket.socket) -> None:
    """Closed with data unread, a connection is reset, and its peer may lose the answer (tcp(7))."""
    try:
        connection.setblocking(False)
        connection.recv(1 << 16)
    except OSError:
        pass  # nothing is there, or nobody
