"""A listening socket of the master's own, and the peers that come to it: for the services that are spoken to.

Nobody holds up the master's loop: accept(2) never blocks, and where the system has nothing for a connection, the next
try is a pause later, since the connection goes on waiting and the loop would spin.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from prefork.net.unixpath import Claim
from prefork.supervisor.event_loop import Loop
from prefork.system import process
from prefork.system.natives import socket

log = logging.getLogger("prefork")

PAUSE: Final = 1.0
"""Seconds until the next try after the system had no descriptor or no memory for us."""


class ListenedPeer(Protocol):
    """One connection."""

    sock: socket.socket

    def close(self) -> None:
        """Close it, and take it from the listener's peers. Idempotent."""


P = TypeVar("P", bound=ListenedPeer)


class PeerListener(Generic[P]):
    """Accepts for a service of the master.

    Args:
        loop: the master's.
        name: what can't accept, in messages.
        level: of the line about that, of which there is one until it can again.
        arrived: called with each connection, to make a peer of it.

    Attributes:
        sock: the listening socket; None before `listen` and after `close`.
        peers: who is connected.
    """

    def __init__(self, loop: Loop, name: str, level: int, arrived: Callable[[socket.socket], None]) -> None:
        self.sock: socket.socket | None = None
        self.peers: list[P] = []
        self._loop = loop
        self._name = name
        self._level = level
        self._arrived = arrived
        self._claim: Claim | None = None
        self._failing = False

    def listen(self, sock: socket.socket, claim: Claim | None) -> None:
        """Accept from ``sock``, which is this object's from now on, and so is ``claim``, its path if it has one."""
        self.sock, self._claim = sock, claim
        sock.setblocking(False)
        self._accept_again()

    @property
    def has_path(self) -> bool:
        """Whether it lies at a path."""
        return self._claim is not None

    def after_fork(self) -> None:
        """WORKER. Close the sockets; those that the loop watches are closed with what is the loop's. Idempotent."""
        sockets = [peer.sock for peer in self.peers]
        if self.sock is not None:
            sockets.append(self.sock)
        self.sock = None
        self.peers.clear()
        process.close(process.runs(fd for sock in sockets if (fd := sock.detach()) >= 0))

    def close(self) -> None:
        """Take leave of the peers, and remove the path. Idempotent."""
        for peer in list(self.peers):
            peer.close()
        if self.sock is not None:
            self._loop.unregister(self.sock.fileno())
            self.sock.close()
            self.sock = None
        if self._claim is not None:
            self._claim.release()
            self._claim = None

    def _accept_again(self) -> None:
        if self.sock is not None:
            try:
                self._loop.register(self.sock.fileno(), self._accept)
            except OSError:
                self._loop.call_later(PAUSE, self._accept_again)

    def _accept(self) -> None:
        assert self.sock is not None
        try:
            connection, _ = self.sock.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            if not self._failing:
                log.log(self._level, "%s can't accept: %s; trying again every %g s", self._name, error, PAUSE)
            self._failing = True
            self._loop.unregister(self.sock.fileno())
            self._loop.call_later(PAUSE, self._accept_again)
            return
        self._failing = False
        connection.setblocking(False)
        self._arrived(connection)
