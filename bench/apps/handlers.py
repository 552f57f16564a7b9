# ruff: noqa: ARG001  # a handler is given both; these have no use for the address
"""What the handlers under measurement do; every Python server of bare connections here runs these."""

import socket
import time

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n"

SLOW = 0.05
"""Seconds that a slow request takes."""


def hello(connection: socket.socket, address: object) -> None:
    """Read a request, whatever it asks, and answer."""
    if connection.recv(65536):
        connection.sendall(ANSWER)


def echo(connection: socket.socket, address: object) -> None:
    """Send back what comes until the client closes."""
    while data := connection.recv(65536):
        connection.sendall(data)


def mixed(connection: socket.socket, address: object) -> None:
    """As hello, but a request for /slow takes its time."""
    request = connection.recv(65536)
    if request.startswith(b"GET /slow"):
        time.sleep(SLOW)  # being slow is what it is for
    if request:
        connection.sendall(ANSWER)
