"""What ends while it has something in hand: a WSGI application, and a handler of a protocol of its own."""

from __future__ import annotations

import ctypes
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prefork import Worker


def application(environ: dict[str, Any], start: Callable[..., object]) -> Iterable[bytes]:
    """Answers its pid, and then goes the way that the path names."""
    start("200 OK", [("Content-Type", "text/plain")])
    if environ["PATH_INFO"] == "/pid":
        return [b"%d" % os.getpid()]
    return _end(environ["PATH_INFO"].rpartition("/")[2])


def _end(way: str) -> Iterator[bytes]:
    yield b"%d\n" % os.getpid()
    if way == "segfault":
        ctypes.string_at(0)
    if way == "exit":
        os._exit(7)
    time.sleep(600)  # to be killed meanwhile


class Job(Worker):
    """Reads a line, calls the connection by it, unless it is "nothing", answers its pid and waits to be killed."""

    def handle(self, connection: socket.socket, address: Any) -> None:  # noqa: ARG002  # every handler is given both
        word = connection.recv(1000).decode().strip()
        if word != "nothing":
            self.label(f"job {word}")
        connection.sendall(b"%d\n" % os.getpid())
        if word != "over":
            time.sleep(600)  # as above
