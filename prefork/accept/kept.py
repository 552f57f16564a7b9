"""What a worker that keeps connections does around each request: `Kept` stands before its handle. WORKER."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefork.accept.keeping import Keeping
from prefork.scoreboard.entry import Lane
from prefork.system.forks import HERE
from prefork.system.natives import socket


class Kept:
    """A handle() for the connections of `Keeping`: it finds the one in hand, and parks or closes it afterwards.

    Args:
        handle: called with the connection and the peer's address.
        acceptor: where the connections come from.
        lane: tells since when it is busy.
        timeout: of each connection, in seconds; 0 sets none.
    """

    def __init__(
        self, handle: Callable[[socket.socket, Any], object], acceptor: Keeping, lane: Lane, timeout: float
    ) -> None:
        self._handle = handle
        self._parking = acceptor.parking
        self._rescue = acceptor.rescue
        self._lane = lane
        self._timeout = timeout

    def serve(self, nobody: socket.socket, address: Any) -> None:  # noqa: ARG002  # it is what the loop closes
        """Serve the connection in hand once.

        Raises:
            BaseException: what the handler raises.
        """
        rescue, one = self._rescue, self._parking.in_hand
        assert one is not None  # the acceptor has just put it there
        rescue.began = self._lane.began
        if not rescue.awake:
            rescue.rouse()
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
                rescue.began = 0
                if rescue.active:
                    rescue.stand_down()
                self._parking.over(one, failed=failed)
