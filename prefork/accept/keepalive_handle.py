"""What a worker that keeps connections does around each request: `KeepaliveHandle` stands before its handle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefork.accept.keepalive_acceptor import KeepaliveAcceptor
from prefork.accept.parked_connections import ParkedConnection
from prefork.net.proxy_reader import ProxyReader
from prefork.scoreboard.entry import Lane
from prefork.system.forks import HERE
from prefork.system.natives import socket


class KeepaliveHandle:
    """A handle() for the connections of `KeepaliveAcceptor`: finds the one in hand, parks or closes it afterwards.

    Args:
        handle: called with the connection and the peer's address.
        acceptor: where the connections come from.
        lane: tells since when it is busy.
        timeout: of each connection, in seconds; 0 sets none.
        reader: reads what a proxy says of a new connection; None when none says anything.
        waiting: as `ProxyReader.read` has it.
    """

    def __init__(
        self,
        handle: Callable[[socket.socket, Any], object],
        acceptor: KeepaliveAcceptor,
        lane: Lane,
        timeout: float,
        reader: ProxyReader | None = None,
        waiting: Callable[[float], None] | None = None,
    ) -> None:
        self._handle = handle
        self._parking = acceptor.parking
        self._thread = acceptor.parking_thread
        self._lane = lane
        self._timeout = timeout
        self._reader = reader
        self._waiting = waiting

    def serve(self, nobody: socket.socket, address: Any) -> None:  # noqa: ARG002  # what the loop closes, and logs
        """Serve the connection in hand once.

        Raises:
            BaseException: what the handler raises.
        """
        thread, one = self._thread, self._parking.in_hand
        assert one is not None  # the acceptor has just put it there
        thread.began = self._lane.began
        if not thread.awake:
            thread.rouse()
        failed = True
        try:
            if self._reader is not None:
                self._know(self._reader, one)
            if self._timeout:
                one.connection.settimeout(self._timeout)
            self._handle(one.connection, one.address)
            failed = False
        finally:
            if HERE.foreign:
                one.connection.close()
            else:
                thread.began = 0
                if thread.active:
                    thread.stand_down()
                self._parking.over(one, failed=failed)

    def _know(self, reader: ProxyReader, one: ParkedConnection) -> None:
        """Whose connection it is: a header comes once, and travels with the connection."""
        if not one.requests:
            one.address = reader.read(one.connection, one.address, self._waiting)
            one.proxy = reader.headers[one.fd]
        elif one.proxy is not None:
            reader.headers[one.fd] = one.proxy
        else:  # it is older than the setting
            reader.headers.pop(one.fd, None)
