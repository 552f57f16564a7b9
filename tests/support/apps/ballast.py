"""Many megabytes of objects, loaded before the fork, and workers that collect garbage among them."""

from __future__ import annotations

import gc
import os
import socket
import sys

import prefork

OBJECT = sys.getsizeof(("",)) + sys.getsizeof([]) + 16
BALLAST: list[tuple[list[str], str]] = [([], "") for _ in range((int(os.environ["BALLAST"]) << 20) // OBJECT)]


class Collector(prefork.Worker):
    """Collects everything, then answers who it is."""

    def init(self) -> None:
        gc.collect()

    def handle(self, connection: socket.socket, _: object) -> None:
        connection.recv(65536)
        body = b"%d" % os.getpid()
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
