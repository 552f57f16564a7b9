"""What a worker that keeps connections does around each request: `KeepaliveHandle` stands before its handle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefork.accept.keepalive_acceptor import KeepaliveAcceptor
from prefork.accept.parked_connections import KEPT, NEW, ParkedConnection
from prefork.net.proxy_reader import ProxyReader, ProxySilentError
from prefork.scoreboard.entry import Lane
from prefork.system.forks import HERE
from prefork.system.natives import socket


class KeepaliveHandle:
    """A handle() for the connections of `KeepaliveAcceptor`: those that are to be kept are parked afterwards.

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
        if reader is not None:
            self._parking.headers = reader.headers
        self._waiting = waiting

    def serve(self, connection: socket.socket, address: Any) -> object:
        """Serve what is in hand once.

        Returns:
            `KEPT` where the connection is not to be closed.

        Raises:
            BaseException: what the handler raises.
        """
        thread, parking = self._thread, self._parking
        if parking.members:
            thread.began = self._lane.began
            if not thread.awake:
                thread.rouse()
        one = parking.in_hand
        if one is None:
            one = parking.in_hand = NEW
        elif self._reader is not None and one.proxy is None and not one.requests:
            one = parking.as_new(one)  # it had said nothing at all
        failed, kept = True, False
        try:
            if self._reader is not None:
                address = self._know(self._reader, one, connection, address)
            if self._timeout:
                connection.settimeout(self._timeout)
            self._handle(connection, address)
            failed = False
        except ProxySilentError:
            failed = False
            parking.park(connection, address, b"", ready=False)
            parking.unasked()
            self._lane.unasked()
        finally:
            if not HERE.foreign:
                thread.began = 0
                if thread.active:
                    thread.stand_down()
                kept = parking.over(connection, failed=failed)
        return KEPT if kept else None

    def _know(self, reader: ProxyReader, one: ParkedConnection, connection: socket.socket, address: Any) -> Any:
        """Whose connection it is: a header comes once, and travels with the connection."""
        if one is NEW:
            return reader.read(connection, address, self._waiting, elsewhere=not self._parking.last())
        if one.proxy is not None:
            reader.headers[one.fd] = one.proxy
        else:  # it is older than the setting
            reader.headers.pop(one.fd, None)
        return address
