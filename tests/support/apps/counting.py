"""A protocol that parks: each line is answered with how many there have been on its connection, and who says it."""

from __future__ import annotations

import os
import socket

from prefork import Worker


class Counting(Worker):
    """Knows by the state of a connection how often it has answered there."""

    def handle(self, connection: socket.socket, address: object) -> None:
        """Answer one line."""
        if not connection.recv(100):
            return
        parked = self.parked
        count = 1 + (0 if parked is None else int(parked.state))
        assert parked is None or parked.requests == count - 1
        connection.sendall(b"%d %d\n" % (count, os.getpid()))
        self.park(connection, address, b"%d" % count)
