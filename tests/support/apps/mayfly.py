"""Workers that die right after they were READY as long as a file named ``die`` lies beside the working directory."""

from __future__ import annotations

import os
import socket

import prefork


class Mayfly(prefork.Worker):
    """Lives unless the file is there."""

    def run(self) -> None:
        if os.path.exists("die"):
            os._exit(9)
        super().run()

    def handle(self, connection: socket.socket, _: object) -> None:
        connection.recv(65536)
        body = b"%d" % os.getpid()
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
