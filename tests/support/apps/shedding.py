"""Workers that say what they think of a connection which is shed."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.apps.probe import Probe
else:
    from probe import Probe  # beside this file, which is first on the import path where it is served

BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\nRetry-After: 1\r\n\r\nbusy"


class Polite(Probe):
    """Says that it is busy."""

    def refuse(self, connection: socket.socket) -> None:
        connection.sendall(BUSY)


class Clumsy(Probe):
    """Says half of it."""

    def refuse(self, connection: socket.socket) -> None:
        connection.sendall(BUSY[:9])
        raise RuntimeError("refused to refuse")


class Slow(Probe):
    """Says more than any client reads."""

    def refuse(self, connection: socket.socket) -> None:
        connection.sendall(BUSY + bytes(1 << 26))
