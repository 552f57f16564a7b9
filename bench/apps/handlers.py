# ruff: noqa: ARG001  # a handler is given both; these have no use for the address
"""What the handlers under measurement do; every Python server of bare connections here runs these."""

import socket
import time

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n"

SLOW = 0.02
"""Seconds that a request for /slow takes."""


def hello(connection: socket.socket, address: object) -> None:
    """Read a request and answer; one for /slow takes its time."""
    request = connection.recv(4096)
    if request:
        if request.startswith(b"GET /slow"):
            time.sleep(SLOW)  # being slow is what it is for
        connection.sendall(ANSWER)


def echo(connection: socket.socket, address: object) -> None:
    """Send back what comes until the client closes."""
    while data := connection.recv(4096):
        connection.sendall(data)
