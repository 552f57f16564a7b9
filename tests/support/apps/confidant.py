"""Handlers that talk under TLS: ``confidant:echo`` and so on."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from typing import Any

import prefork

KEPT: list[object] = []


def echo(connection: socket.socket, address: object) -> None:
    """Say back what comes in one piece, who we are, and what we speak."""
    assert isinstance(connection, ssl.SSLSocket)
    data = connection.recv(100)
    connection.sendall(b"%s %d %s" % (data, os.getpid(), (connection.version() or "").encode()))


def big(connection: socket.socket, address: object) -> None:
    connection.recv(100)
    connection.sendall(bytes(4_000_000))


def fails(connection: socket.socket, address: object) -> None:
    connection.sendall(b"half of it")
    raise ValueError("this one fails")


def keeps(connection: socket.socket, address: object) -> None:
    """A file on the connection outlives the handler."""
    KEPT.append(connection.makefile("rb"))
    connection.sendall(b"kept")


def unwraps(connection: socket.socket, address: object) -> None:
    """Part from TLS by itself, as some protocols do."""
    assert isinstance(connection, ssl.SSLSocket)
    connection.unwrap().sendall(b"plain again")


def timeout(connection: socket.socket, address: object) -> None:
    connection.sendall(str(connection.gettimeout()).encode())


def forks(connection: socket.socket, address: object) -> None:
    """Have a child that comes back before its parent answers."""
    if child := os.fork():
        os.waitpid(child, 0)
        connection.sendall(b"of the parent")


def subject(connection: socket.socket, address: object) -> None:
    assert isinstance(connection, ssl.SSLSocket)
    connection.sendall(repr(connection.getpeercert()).encode())


class Outspoken(prefork.Worker):
    """Would answer who is shed in plain text."""

    def handle(self, connection: socket.socket, address: Any) -> None:
        echo(connection, address)

    def refuse(self, connection: socket.socket) -> None:
        connection.sendall(b"busy")


class Looped(prefork.Worker):
    """Has a loop of its own and knows nothing of TLS."""

    def run(self) -> None:
        while self.accept() is not None:
            pass


class Secure(prefork.Worker):
    """Has a loop of its own that shakes hands in a thread for each connection."""

    handshakes = False

    def run(self) -> None:
        while (accepted := self.accept()) is not None:
            threading.Thread(target=self._talk, args=accepted).start()

    def _talk(self, connection: socket.socket, address: Any) -> None:
        assert self.tls is not None
        with self.busy(), self.tls.wrap_socket(connection, server_side=True) as secured:
            echo(secured, address)
