"""What the kernel knows about a worker's connections, for stopping servers that don't tell.

A server that is told to stop closes the connections that are idle, and means those on which it has no request. To it,
a connection that was accepted a millisecond ago and whose request lies unread in the kernel is idle; it is closed, and
somebody has been lost. And a server that waits for its connections to end waits for clients who keep theirs open for a
next request that may never come. Both can be told from outside, by who has spoken last (tcp(7), TCP_INFO):

    nobody has spoken          the client is still to send its request; it has `GRACE` seconds for that
    there are unread bytes     the server is about to look; it has as long
    the client spoke last      a request is in hand, or half of one has come; the other half has as long, too
    the server spoke last      the connection is idle, or an answer is being sent, or the client was told to go on

`Connections.unread` waits for the first three to pass, and then a server may be told to stop. `Connections.hang_up`
ends the last kind, for servers that don't: it shuts the connection down for reading (shutdown(2)), so that the server,
when it next looks for a request, finds the end of the connection. Bytes that had arrived before are still read, and
nothing is cut short that is being sent. A client that was told to go on with its body (100 Continue) looks like one
that has its answer; so the server must have spoken `PATIENCE` seconds ago. After `GRACE` seconds it need not: a client
that asks again and again without a pause would keep its worker for good.

The connections are found among this process's descriptors: whatever has the listener's address, and a peer.
AF_UNIX counts unread bytes only: there a connection is idle that had none for `QUIET` seconds, and until then its
client may be about to speak.

Both give pauses, in seconds, because only the caller knows how its loop sleeps::

    connections = Connections(worker.sockets)
    ...
    for pause in connections.unread():
        await asyncio.sleep(pause)

WORKER, any thread. Every connection is looked at through a duplicate of its descriptor: the server may close its own
at any moment, and the number be given to something else.
"""

from __future__ import annotations

import array
import enum
import fcntl
import struct
import termios
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from prefork.net.accepted import connections as accepted
from prefork.net.accepted import name_of
from prefork.system.natives import os, socket, time

GRACE: Final = 1.0
"""Seconds for clients to send, and for the server to read, what decides whether there is a request."""

PATIENCE: Final = 0.5
"""Seconds for clients to go on after the server has spoken, before their connections count as idle."""

QUIET: Final = 1.0
"""Seconds without unread bytes after which an AF_UNIX connection counts as idle."""

_LOOK: Final = 0.01  # seconds between two looks, at first
_LOOK_MOST: Final = 0.1
_SHARE: Final = 10  # of the time, a look may take one part

# struct tcp_info (linux/tcp.h): offsets of what is looked at, all of 32 bits but the state.
_LAST_SENT: Final = 44
_LAST_RECEIVED: Final = 52
_SEGMENTS_IN: Final = 152
_SEGMENTS_OUT: Final = 156
_TCP_INFO_BYTES: Final = 160
_TCP_ESTABLISHED: Final = 1


class Last(enum.Enum):
    """Who has spoken last on a connection."""

    NOBODY = "nobody"
    CLIENT = "client"
    SERVER = "server"
    UNKNOWN = "unknown"
    """The kernel doesn't tell: AF_UNIX, or older than 4.6."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known about a connection.

    Attributes:
        unread: Bytes that the server has not read.
        last: Who has spoken last.
        ago: How many seconds ago; 0 where that is nobody, or unknown.
        open: Whether the client may say more.
    """

    unread: int
    last: Last
    ago: float = 0.0
    open: bool = True

    @property
    def unheard(self) -> bool:
        """Whether something is to be heard yet: what is unread, or what a client may be in the middle of saying."""
        speaking = self.last is Last.NOBODY or (self.last is Last.CLIENT and self.ago < GRACE)
        return bool(self.unread) or (self.open and speaking)

    def idle(self, patience: float) -> bool:
        """Whether no request is in hand.

        Args:
            patience: Seconds that the client has to go on after the server has spoken.
        """
        settled = self.last is Last.NOBODY or (self.last is Last.SERVER and self.ago >= patience)
        return settled and not self.unread


def _shut_for_reading(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_RD)


class Connections:
    """The connections that this process has accepted from some listeners.

    Args:
        listeners: Whose names are taken now: a listener that is sealed has another socket in its place (dup2(2)).
    """

    def __init__(self, listeners: Iterable[socket.socket]) -> None:
        self._names = frozenset(map(name_of, listeners))
        self._quiet: dict[int, float] = {}

    def unread(self) -> Iterator[float]:
        """Wait, for `GRACE` seconds at the most, until every client has been heard out and everything was read.

        Returns:
            Seconds to sleep, again and again.
        """
        end = time.monotonic() + GRACE

        def something_is() -> bool:
            if time.monotonic() >= end:
                return False
            return True in [self._unheard(connection) for _, connection in accepted(self._names)]  # each has its time

        return _while(something_is)

    def _unheard(self, connection: socket.socket) -> bool:
        try:
            facts = look(connection)
        except OSError:
            return False  # it has ended meanwhile
        return facts.unheard if facts.last is not Last.UNKNOWN else not self._is_quiet(connection, facts)

    def hang_up(self, end: Callable[[socket.socket], object] = _shut_for_reading) -> Iterator[float]:
        """Wait until no connection is left, and end those that become idle meanwhile.

        Args:
            end: Ends one that is idle, for as long as it is there again and again; given a duplicate that is closed
                afterwards. By default it is shut down for reading.

        Returns:
            Seconds to sleep, again and again.
        """
        patient_until = time.monotonic() + GRACE

        def some_are_left() -> bool:
            patience = PATIENCE if time.monotonic() < patient_until else 0.0
            left = 0
            for _, connection in accepted(self._names):
                left += 1
                try:
                    if self._is_idle(connection, patience):
                        end(connection)
                except OSError:
                    continue  # it has ended by itself
            return left > 0

        return _while(some_are_left)

    def _is_idle(self, connection: socket.socket, patience: float) -> bool:
        """Whether a connection is idle; where that can't be seen, whether it has been quiet for long enough."""
        facts = look(connection)
        return self._is_quiet(connection, facts) if facts.last is Last.UNKNOWN else facts.idle(patience)

    def _is_quiet(self, connection: socket.socket, facts: Facts) -> bool:
        """Whether nothing of it has been seen unread for `QUIET` seconds, in which it was looked at."""
        inode, now = os.fstat(connection.fileno()).st_ino, time.monotonic()
        if facts.unread:
            self._quiet[inode] = now
        return now - self._quiet.setdefault(inode, now) >= QUIET


def look(connection: socket.socket) -> Facts:
    """What is known about a connection.

    Raises:
        OSError: It is none any more.
    """
    size = array.array("i", [0])
    fcntl.ioctl(connection.fileno(), termios.FIONREAD, size)
    if connection.family == socket.AF_UNIX:
        return Facts(size[0], Last.UNKNOWN)
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    if len(info) < _TCP_INFO_BYTES:
        return Facts(size[0], Last.UNKNOWN)  # a kernel before 4.6
    sent_ago, received_ago, received, sent = (
        struct.unpack_from("=I", info, offset)[0]
        for offset in (_LAST_SENT, _LAST_RECEIVED, _SEGMENTS_IN, _SEGMENTS_OUT)
    )
    opened = info[0] == _TCP_ESTABLISHED
    if sent and (sent_ago <= received_ago or not received):
        return Facts(size[0], Last.SERVER, sent_ago / 1000, opened)
    if received:
        return Facts(size[0], Last.CLIENT, received_ago / 1000, opened)
    return Facts(size[0], Last.NOBODY, open=opened)


def _while(fact: Callable[[], bool]) -> Iterator[float]:
    """Pauses until ``fact`` is no more: ever longer ones, and such that looking takes a small part of the time."""
    pause = _LOOK
    while True:
        began = time.monotonic()
        if not fact():
            return
        yield max(pause, _SHARE * (time.monotonic() - began))
        pause = min(1.5 * pause, _LOOK_MOST)
