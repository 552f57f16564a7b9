"""Reading from a client who may say nothing for long, in a worker that may be told to leave meanwhile. WORKER.

A receive that blocks hears of no order: the interpreter makes the call again after the signal (PEP 475), and an idle
client would hold a stop or a reload up until it is killed. So both are waited for at once, the client first: what it
has said when the order comes is answered.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from prefork.accept.worker_context import WorkerContext
from prefork.net.lingering import linger
from prefork.scoreboard.entry import Entry
from prefork.scoreboard.layout import Order
from prefork.system.forks import HERE, end_for_all
from prefork.system.natives import select, socket

REST: Final = 2.0
"""Seconds that a first line, and the rest of any, may take once this worker has been told to leave."""

_RECEIVE: Final = 1 << 16  # bytes asked for at once
_RUN: Final = Order.RUN


class Dialogue:
    """What a `prefork.Worker` has for protocols in which a client may be silent between two requests.

    Both leave a connection that is closed because of an order to linger, so that nobody loses an answer to a line that
    was just on its way.
    """

    _given: WorkerContext
    _entry: Entry
    _parts = False

    def readable(self, connection: socket.socket) -> bool:
        """Wait until a client has said something, or until this worker is told to leave.

        While it waits, the worker is not taken for hung, however long the client is silent. What the client has said
        already comes first: it is answered though an order has come too.

        Args:
            connection: the one that :meth:`handle` was given, with nothing of it buffered in Python.

        Returns:
            True when a receive will not wait (the end of the client's side counts); False when it is time to return
            from :meth:`handle`.

        Raises:
            TimeoutError: the connection has a timeout (``io_timeout``), and nothing came within it.
        """
        told = self._entry.obeyed is not _RUN
        if self._heard(connection, 0.0 if told else connection.gettimeout(), orders=not told):
            return True
        if self._entry.obeyed is _RUN:
            raise TimeoutError("the client said nothing")
        self._parts = True
        return False

    def lines(self, connection: socket.socket, limit: int = 1 << 16) -> Iterator[bytes]:
        """The lines that a client sends, until it ends its side or this worker is told to leave.

        All that has come when the order comes is given, whole lines that were sent at once among them; so a
        conversation ends between two lines. The first line, and the rest of half a line, are waited for even then, for
        two seconds at the most.

        Args:
            connection: the one that :meth:`handle` was given.
            limit: the longest line, in bytes.

        Yields:
            Each line with its end; the last one perhaps without, if the client has ended its side there.

        Raises:
            ValueError: a line is longer than that.
            TimeoutError: as :meth:`readable`.
        """
        begun, greeted = bytearray(), False
        while True:
            if self._entry.obeyed is not _RUN and (begun or not greeted):
                if not self._heard(connection, REST, orders=False):
                    self._parts = True
                    return
            elif not self.readable(connection):
                if greeted and not begun:
                    return
                continue  # who has just connected may be about to speak, and half a line has a rest
            greeted = True
            data = connection.recv(_RECEIVE)
            if not data:
                if begun:
                    yield bytes(begun)
                return
            begun += data
            *whole, rest = begun.split(b"\n") if b"\n" in data else (begun,)
            begun = bytearray(rest)
            for line in whole:
                _check(len(line) + 1, limit)
                yield bytes(line) + b"\n"
            _check(len(begun), limit)

    def _heard(self, connection: socket.socket, seconds: float | None, *, orders: bool) -> bool:
        """Wait for a client, for so long or for ever, and for an order as well; whether it was the client."""
        pending = getattr(connection, "pending", None)
        if pending is not None and pending():  # what TLS has received already, and the socket will not show again
            return True
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        if orders:
            poll.register(self._entry.stop_fd, select.POLLIN)
        limit = self._given.settings.timeout
        if limit:  # that is the application's time, and begins anew when the client has spoken
            self._entry.extend_deadline((math.inf if seconds is None else seconds) + limit)
        try:
            ready = poll.poll(None if seconds is None else seconds * 1000)
        finally:
            if limit:
                self._entry.extend_deadline(limit)
        return any(fd == connection.fileno() for fd, _ in ready)

    def _let_go(self, connection: socket.socket) -> None:
        """As :meth:`_part`, where there is a reason for it."""
        if HERE.copied or self._parts:
            self._part(connection)

    def _part(self, connection: socket.socket) -> None:
        """Before a connection is closed: let go of it what is not to be lost by that."""
        if HERE.copied:
            end_for_all(connection)
            HERE.copied = False
        if self._parts and not HERE.foreign:  # else the parent has the connection as well
            linger(connection)


def _check(length: int, limit: int) -> None:
    if length > limit:
        raise ValueError(f"a line is longer than {limit} bytes")
