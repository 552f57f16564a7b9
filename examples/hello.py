"""HTTP hello: the smallest server that a browser or curl understands.

Run it with ``python examples/hello.py``, or ``prefork serve hello:handle --app-dir examples``.
"""

import socket

import prefork

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n"


def handle(connection: socket.socket, address: object) -> None:
    """Read a request, whatever it asks, and answer."""
    if connection.recv(65536):
        connection.sendall(ANSWER)


if __name__ == "__main__":
    import logging

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    prefork.serve(handle, bind="127.0.0.1:8000")
