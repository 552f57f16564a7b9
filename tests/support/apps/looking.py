"""A protocol that keeps nobody: each byte is answered with how often its worker has looked for work; a w with a w."""

from __future__ import annotations

import socket
from typing import Any

from prefork import Worker


class Looks:
    """An epoll that counts how often it is asked what is ready, by one that accepts."""

    def __init__(self, epoll: Any) -> None:
        self._epoll = epoll
        self.count = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._epoll, name)

    def poll(self, *limits: float) -> list[tuple[int, int]]:
        """As `select.epoll.poll`."""
        self.count += 1
        found: list[tuple[int, int]] = self._epoll.poll(*limits)
        return found


class Looking(Worker):
    """Knows how often it has looked."""

    def ready(self) -> None:
        """Count from now on."""
        acceptor: Any = self._acceptor
        self._looks = acceptor._epoll = Looks(acceptor._epoll)
        super().ready()

    def handle(self, connection: socket.socket, _: object) -> None:
        """Answer one byte; a w by a w, and when the next one comes."""
        if connection.recv(1) == b"w":
            connection.sendall(b"w")
            connection.recv(1)
        connection.sendall(b"%d" % self._looks.count)
