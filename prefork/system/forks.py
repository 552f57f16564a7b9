"""Whether a worker's process has copies, or is one: what the application forks beside us.

:mod:`prefork.accept.offspring` writes it, inside os.fork(); whoever gets control back from an application asks. That is
a look at an attribute, and no system call.
"""

from __future__ import annotations

import contextlib

from prefork.system.natives import socket, threading

get_ident = threading.get_ident


class Here:
    """What this process knows of itself.

    Attributes:
        foreign: Whether it was forked by a worker's application: then nothing of ours is to be done in it any more.
        copied: Whether a process was forked that may hold copies of this one's connections; who ends a connection by
            shutdown(2) because of that takes it back.
        ours: The thread that forks a process of the server's own this very moment, by its ident; 0 for none. What
            another one forks meanwhile is the application's.
    """

    __slots__ = ("copied", "foreign", "ours")

    def __init__(self) -> None:
        self.foreign = False
        self.copied = False
        self.ours = 0

    @property
    def forks_ours(self) -> bool:
        """Whether it is this thread."""
        return self.ours == get_ident()

    def spread(self) -> None:
        """Several threads have connections in hand from now on: `copied` is what each of them has to know."""
        self.__class__ = _SeveralHere


class _SeveralHere(Here):
    """The same where several threads have connections in hand.

    Attributes:
        copied: Whether a process was forked since this thread has last said that none was.
    """

    __slots__ = ()

    @property
    def copied(self) -> bool:
        return _thread.seen is not _forks[0]

    @copied.setter
    def copied(self, copied: bool) -> None:
        if copied:
            _forks[0] = object()
        else:
            _thread.seen = _forks[0]


class _ForksSeen(threading.local):
    seen: object = None


_thread = _ForksSeen()
_forks = [object()]

HERE = Here()
"""This process."""


def end_for_all(connection: socket.socket) -> None:
    """End a connection of which another process may hold a copy, as its last close would (shutdown(2))."""
    with contextlib.suppress(OSError):  # it is closed, or has ended, or was given to somebody
        connection.shutdown(socket.SHUT_RDWR)
