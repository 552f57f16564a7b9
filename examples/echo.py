"""TCP echo: many lines a connection, each answered as it was sent.

Run it with ``python examples/echo.py`` and talk to it with ``nc 127.0.0.1 8000``.
"""

import socket

import prefork


class Echo(prefork.Worker):
    """One worker serves one conversation at a time."""

    def handle(self, connection: socket.socket, address: object) -> None:
        """Answer lines until the client has said its last."""
        with connection.makefile("rwb") as stream:
            for line in stream:
                stream.write(line)
                stream.flush()
                if self.stopping:  # a conversation can go on for ever: leave it between two lines
                    break


if __name__ == "__main__":
    import logging

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    prefork.Master(Echo, prefork.Settings(bind="127.0.0.1:8000", workers=4)).run()
