"""Workers that keep what they should give back, and workers that only look like it."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Callable
from typing import Any

import prefork

_kept: list[object] = []
"""What a handler forgets to close."""


def _answer(connection: socket.socket, body: object) -> None:
    text = str(body).encode()
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text))


class Leaky(prefork.Worker):
    """Keeps one descriptor of a kind for each request: ``/file``, ``/connection``, ``/pipe`` and so on."""

    def handle(self, connection: socket.socket, address: object) -> None:  # noqa: ARG002  # the base class's signature
        kind, _, argument = connection.recv(65536).split()[1].decode().lstrip("/").partition("/")
        if kind:
            _kept.append(getattr(self, f"keep_{kind}")(connection, argument))
        _answer(connection, os.getpid())

    def keep_file(self, _: socket.socket, path: str) -> object:
        return os.open(f"/{path}", os.O_RDONLY)

    def keep_files(self, _: socket.socket, count: str) -> object:
        return [os.open("/dev/null", os.O_RDONLY) for _ in range(int(count))]

    def keep_connection(self, connection: socket.socket, _: str) -> object:
        return connection.dup()

    def keep_client(self, _: socket.socket, address: str) -> object:
        host, port = address.split(":")
        return socket.create_connection((host, int(port)))

    def keep_pipe(self, *_: Any) -> object:
        return os.pipe()

    def keep_epoll(self, *_: Any) -> object:
        return select.epoll()

    def keep_number(self, _: socket.socket, number: str) -> object:
        return os.dup2(0, int(number))


class Provident(Leaky):
    """Opens much at its start, once."""

    def init(self) -> None:
        _kept.extend(os.open("/dev/null", os.O_RDONLY) for _ in range(36))


class Threaded(prefork.Worker):
    """A loop of its own that has as many connections in hand as come, each with a file of its own if there is one."""

    def run(self) -> None:
        for connection, _ in iter(self.accept, None):
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        with connection, contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):
                stack.enter_context(open(__file__, encoding="utf-8"))
            connection.recv(65536)
            connection.sendall(b"held\n")
            connection.recv(1)
            _answer(connection, os.getpid())


class Alone(Leaky):
    """A loop of its own that takes one connection at a time."""

    def run(self) -> None:
        for connection, address in iter(self.accept, None):
            with connection:
                self.handle(connection, address)


def application(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
    """Keeps a file for each request but those for ``/``."""
    if environ["PATH_INFO"] != "/":
        _kept.append(os.open("/dev/null", os.O_RDONLY))
    start_response("200 OK", [])
    return [b"%d" % os.getpid()]
