"""Connections that were accepted for somebody else's loop, and have not said yet whose they are. WORKER.

A loop is given a connection together with its true peer's address, so the proxy's header is read first, and since the
loop can't wait, those whose header is still to come wait here, in an epoll of their own.
"""

from __future__ import annotations

import math
from typing import Any, Final

from prefork.accept.raw_socket import Raw
from prefork.net.proxy_protocol import ProxyHeader, ProxyProtocolError
from prefork.net.proxy_reader import ProxyReader
from prefork.system.natives import os, select, socket, time
from prefork.system.record import MutableRecord
from prefork.system.timerfd import TimerFd

epoll = select.epoll
EPOLLIN = select.EPOLLIN
EPOLL_CLOEXEC = select.EPOLL_CLOEXEC

UNNAMED: Final = ("unix", 0)
"""The true peer that came to its proxy through a unix socket: a server on TCP expects a host and a port."""


class _Unread(MutableRecord):
    """One connection.

    Attributes:
        connection: The socket.
        address: Its peer's.
        received: What of the header has come.
        deadline: Until when the rest has to (monotonic seconds).
    """

    connection: socket.socket
    address: Any
    received: bytes
    deadline: float


class UnreadHeaders:
    """Those of one listener.

    Args:
        listener: Whose connections they are.
        reader: Reads the headers.

    Raises:
        OSError: No descriptor for what it needs.
    """

    def __init__(self, listener: socket.socket, reader: ProxyReader) -> None:
        self._of_kind = listener.family, listener.type, listener.proto
        self._reader = reader
        self._members: dict[int, _Unread] = {}  # all have the same time, so the first is due first
        self._timer = TimerFd()
        self._epoll = epoll(flags=EPOLL_CLOEXEC)
        self._epoll.register(self._timer.fileno(), EPOLLIN)

    def __len__(self) -> int:
        return len(self._members)

    def fileno(self) -> int:
        """A descriptor that is readable when one of them speaks, or has waited for too long."""
        return self._epoll.fileno()

    def introduce(self, accepted: Raw) -> Raw | None:
        """Take one that was just accepted.

        Returns:
            It, with its true peer's address; None when its header is still to come, or it has been closed.
        """
        fd, address = accepted
        one = _Unread(socket.socket(*self._of_kind, fileno=fd), address, b"", 0.0)
        if not self._reader.admits(address):
            one.connection.close()
            return None
        try:
            known = self._advance(one)
        except ProxyProtocolError as error:
            self._end(one, error)
            return None
        if known is None:
            one.deadline = time.monotonic() + self._reader.patience
            if not self._members:
                self._set_timer(one)
            self._members[fd] = one
            self._epoll.register(fd, EPOLLIN)
        return known

    def next(self) -> Raw | None:
        """One whose header has come meanwhile; None when there is none now."""
        if not self._members:
            return None
        for fd, _ in self._epoll.poll(0):
            one = self._members.get(fd)
            if one is None:
                self._expire()
                continue
            try:
                known = self._advance(one)
            except ProxyProtocolError as error:
                self._forget(fd)
                self._end(one, error)
                continue
            if known is not None:
                self._forget(fd)
                return known
        return None

    def part(self) -> None:
        """In a process that the application has forked: have none of them, and leave the epoll alone."""
        with epoll(flags=EPOLL_CLOEXEC) as own:
            os.dup2(own.fileno(), self._epoll.fileno(), inheritable=False)
        for one in self._members.values():
            one.connection.close()
        self._members.clear()

    def close(self) -> None:
        """Close all of them, and give the descriptors back."""
        for one in self._members.values():
            one.connection.close()
        self._members.clear()
        self._epoll.close()
        self._timer.close()

    def _advance(self, one: _Unread) -> Raw | None:
        """Read on; the socket is detached when the header has come."""
        found = self._reader.attempt(one.connection, one.received)
        if isinstance(found, ProxyHeader):
            fd = one.connection.fileno()
            address = self._reader.found(fd, found, one.address)
            if found.source is not None and not isinstance(address, tuple):
                address = UNNAMED
            one.connection.detach()
            return fd, address
        one.received = found
        return None

    def _forget(self, fd: int) -> None:
        del self._members[fd]
        self._epoll.unregister(fd)  # its close would not do that while a child has a copy (epoll(7))
        if not self._members:
            self._timer.stop()  # nobody would take its tick

    def _end(self, one: _Unread, error: ProxyProtocolError) -> None:
        self._reader.tell(error, one.address)
        one.connection.close()

    def _expire(self) -> None:
        """Close those who have waited for too long."""
        self._timer.take_tick()
        now = time.monotonic()
        for fd, one in [*self._members.items()]:
            if one.deadline > now:
                self._set_timer(one)
                return
            self._forget(fd)
            self._end(one, ProxyProtocolError("nothing for too long"))

    def _set_timer(self, first: _Unread) -> None:
        if first.deadline != math.inf:
            self._timer.set(first.deadline - time.monotonic())
