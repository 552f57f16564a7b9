"""What a worker that keeps connections does around each request: `KeepaliveHandle` stands before its handle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefork.accept.keepalive_acceptor import KeepaliveAcceptor
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
    """

    def __init__(
        self, handle: Callable[[socket.socket, Any], object], acceptor: KeepaliveAcceptor, lane: Lane, timeout: float
    ) -> None:
        self._handle = handle
        self._parking = acceptor.parking
        self._thread = acceptor.parking_thread
        self._lane = lane
        self._timeout = timeout

    def serve(self, nobody: socket.socket, address: Any) -> None:  # noqa: ARG002  # it is what the loop closes
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
            if self._timeout:
                one.connection.settimeout(self._timeout)
            self._handle(one.connection, address)
            failed = False
        finally:
            if HERE.foreign:
                one.connection.close()
            else:
                thread.began = 0
                if thread.active:
                    thread.stand_down()
                self._parking.over(one, failed=failed)
