"""Connections on which nothing is said, though the kernel was to keep them until something is (TCP_DEFER_ACCEPT).

It keeps a silent one for as long as ``defer_accept`` says, in steps that double, repeats the SYN-ACK once more and then
hands it over all the same. Such a connection has been silent for seconds already, and is not worth a worker's while.
One that comes without its request and without a SYN-ACK that was repeated was let in by a SYN cookie, of which the
kernel remembers nothing: its request may be just behind it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from typing import Final

from prefork.system.natives import socket

COOKIE: Final = 0.5
"""Seconds that a connection may be silent of which nothing is known."""

# struct tcp_info (linux/tcp.h): how many segments were repeated, a SYN-ACK among them; how many bytes have come.
_TOTAL_RETRANS: Final = struct.Struct("=I")
_TOTAL_RETRANS_AT: Final = 100
_RECEIVED: Final = struct.Struct("=Q")
_RECEIVED_AT: Final = 128
_TCP_INFO_BYTES: Final = 136


class Silence:
    """For how long a connection may go on to say nothing. WORKER.

    Args:
        listeners: What it may have come from.
    """

    def __init__(self, listeners: Iterable[socket.socket]) -> None:
        # A unix socket's name is no tuple. Its family is made a member of an enum, which copies twenty pages.
        self._listeners = [listener for listener in listeners if isinstance(listener.getsockname(), tuple)]

    @property
    def deferred(self) -> bool:
        """Whether the kernel keeps silent connections for now. While the server stops it doesn't."""
        try:
            return bool(self._listeners) and all(
                listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT) for listener in self._listeners
            )
        except OSError:  # sealed: another socket is in its place
            return False

    def allowed(self, connection: socket.socket) -> float:
        """Seconds, infinity included, that ``connection`` may be waited for now that it has nothing to be received."""
        if not self.deferred:
            return math.inf
        try:
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        except OSError:  # not TCP
            return math.inf
        if len(info) < _TCP_INFO_BYTES or _RECEIVED.unpack_from(info, _RECEIVED_AT)[0]:
            return math.inf
        return 0.0 if _TOTAL_RETRANS.unpack_from(info, _TOTAL_RETRANS_AT)[0] else COOKIE
