"""TCP echo: whatever a client says is sent back, and a client that is silent keeps no worker.

Run it with ``python examples/echo.py`` and talk to it with ``nc 127.0.0.1 8000``.
"""

import socket

import prefork


class Echo(prefork.Worker):
    """One worker serves many conversations, one at a time, and those in which nothing is said cost it nothing."""

    def handle(self, connection: socket.socket, address: object) -> None:
        """Send back what has come, and have the connection kept until more does, by this worker or another."""
        while data := connection.recv(1 << 16):
            connection.sendall(data)
            if self.park(connection, address):
                break
            if self.stopping:  # not kept (keepalive is 0), a conversation can go on for ever
                break


if __name__ == "__main__":
    import logging

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    prefork.Master(Echo, prefork.Settings(bind="127.0.0.1:8000", workers=4, keepalive=600)).run()
