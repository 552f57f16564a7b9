"""Whether a worker's process has copies, or is one: what the application forks beside us.

:mod:`prefork.accept.offspring` writes it, inside os.fork(); whoever gets control back from an application asks. That is
a look at an attribute, and no system call.
"""

from __future__ import annotations

import contextlib

from prefork.system.natives import socket


class Here:
    """What this process knows of itself.

    Attributes:
        foreign: Whether it was forked by a worker's application: then nothing of ours is to be done in it any more.
        copied: Whether a process was forked that may hold copies of this one's connections; who ends a connection by
            shutdown(2) because of that takes it back.
        ours: Whether a process is forked this very moment that is the server's own.
    """

    __slots__ = ("copied", "foreign", "ours")

    def __init__(self) -> None:
        self.foreign = False
        self.copied = False
        self.ours = False


HERE = Here()
"""This process."""


def end_for_all(connection: socket.socket) -> None:
    """End a connection of which another process may hold a copy, as its last close would (shutdown(2))."""
    with contextlib.suppress(OSError):  # it is closed, or has ended, or was given to somebody
        connection.shutdown(socket.SHUT_RDWR)
