"""Connections that have been answered while their clients may still be sending.

A socket that is closed with unread bytes in its buffer, or that is sent some later, answers with RST in place of FIN,
and a client may lose to it what it had not read yet: the answer (tcp(7); RFC 9112, 9.6). So such a connection is first
shut down for sending, and read until its client ends it, too. Nobody waits for that: the connection goes into a set of
its own, with `SECONDS` and `BYTES` to go, and whoever served it goes on.

The set is looked after by a thread that exists only while somebody is in it, and sleeps until one of them moves or is
due. A thread, because a worker that waits in a blocking accept can't wait for anything else: what it would have to make
non-blocking for that is shared with its siblings (open(2)), and a poll before the accept does not help, since a sibling
may be faster and the accept block all the same. It touches nothing but its own sockets, takes no signals, and is put to
sleep around a fork (`prefork.system.fork_safe_thread`), whose child drops all of it.

Any process, any thread; in fact the WORKER.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Final

from prefork.system.fork_safe_thread import ForkSafeThread
from prefork.system.limits import nofile
from prefork.system.natives import select, socket, time

EPOLL_CLOEXEC = select.EPOLL_CLOEXEC
EPOLLIN = select.EPOLLIN
EPOLLOUT = select.EPOLLOUT
epoll = select.epoll

SECONDS: Final = 2.0
"""For how long a connection lingers at the most."""

BYTES: Final = 1 << 24
"""How much it may still send, at the most."""

MOST: Final = 1024
"""How many may linger in one process; less where there are not so many descriptors. The oldest makes room."""

_SHARE: Final = 4  # of the descriptors that are left, one part may linger
_AT_ONCE: Final = 16  # looked at in a row, while others may wait for the lock
_PIECE: Final = 1 << 18  # bytes taken from one of them in one go
_PAUSE: Final = 0.005  # seconds between two rounds, so that many who trickle cost little
_STAY: Final = 1.0  # seconds for which the thread waits for more once nobody lingers
_TURN: Final = 0.01

_plain: Final = socket.SocketType
_FLAGS: Final = int(socket.MSG_DONTWAIT | socket.MSG_TRUNC)  # TCP then drops the bytes without copying them (tcp(7))
_buffer: Final = mmap.mmap(-1, _PIECE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # never read; no memory until written to


class Lingerer:
    """One connection. Used under the lock of its set, once it is in it.

    Args:
        connection: Taken over.
        farewell: Says goodbye above the socket; called until it gives True. It may raise OSError.
    """

    __slots__ = ("_connection", "_farewell", "_left", "deadline")

    def __init__(self, connection: socket.SocketType, farewell: Callable[[], bool] | None = None) -> None:
        self._connection = connection
        self._farewell = farewell
        self._left = BYTES
        self.deadline = time.monotonic() + SECONDS
        if farewell is None:
            self._end_sending()

    @property
    def events(self) -> int:
        """What to wait for."""
        return EPOLLIN if self._farewell is None else EPOLLOUT

    def fileno(self) -> int:
        """Its descriptor, the same all its life."""
        return self._connection.fileno()

    def move(self) -> bool:
        """Go on as far as it goes at once; whether it is over."""
        try:
            if self._farewell is not None:
                if not self._farewell():
                    return False
                self._farewell = None
                self._end_sending()
            count = self._connection.recv_into(_buffer, 0, _FLAGS)
        except BlockingIOError:
            return False
        except OSError:
            return True
        self._left -= count
        return count == 0 or self._left <= 0

    def close(self) -> None:
        """Close it."""
        self._connection.close()

    def _end_sending(self) -> None:
        # From here on it is a socket and nothing else: no timeout, no TLS, nobody's subclass.
        self._connection = _plain(socket.AF_INET, socket.SOCK_STREAM, 0, self._connection.detach())
        self._connection.setblocking(False)
        try:
            self._connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it is gone; the first receive says so


class Lingerers:
    """The set of those of one process. It holds no descriptor and no thread before the first of them."""

    def __init__(self) -> None:
        self._thread = ForkSafeThread(self._goes_on, self._look, resume=self._resume, drop=self._drop_copies)
        self._begin()

    def _begin(self) -> None:
        self._members: dict[int, Lingerer] = {}  # the oldest first
        self._most = MOST
        self._epoll: epoll | None = None
        self._pause = self._patience = 0.0

    def __len__(self) -> int:
        return len(self._members)

    def take(self, connection: socket.SocketType, farewell: Callable[[], bool] | None = None) -> None:
        """Let a connection linger. It is taken over: for who gives it, it is closed.

        Args:
            connection: A stream socket on which everything has been said.
            farewell: What is still to be said on it when there is room, by a call that does not wait, and is repeated
                until it gives True.
        """
        if connection.fileno() < 0:
            return
        one = Lingerer(connection, farewell)
        if one.move():
            one.close()
            return
        with self._thread.lock:
            try:
                self._admit(one)
            except (OSError, RuntimeError):  # no descriptor, no memory, no thread to be had: it can't be waited for
                self._members.pop(one.fileno(), None)
                one.close()

    def dismiss(self) -> bool:
        """Close all of them, since descriptors are needed; whether there were some."""
        with self._thread.lock:
            some = bool(self._members)
            self._drop_all()
        return some

    def settle(self, seconds: float = SECONDS) -> None:
        """Wait until nobody lingers any more, for ``seconds`` at the most: the process is about to end."""
        end = time.monotonic() + seconds
        while self._members and time.monotonic() < end:
            time.sleep(_TURN)

    def _admit(self, one: Lingerer) -> None:
        fd = one.fileno()
        watched = self._opened()
        if not self._members:
            # Numbers are given out from the lowest: this one tells how many are in use.
            self._most = max(1, min(MOST, (nofile() - fd) // _SHARE))
        while len(self._members) >= self._most:
            self._drop(next(iter(self._members)))
        watched.register(fd, one.events)
        self._members[fd] = one
        self._thread.start()

    def _opened(self) -> epoll:
        """What the thread waits with."""
        if self._epoll is None:
            self._thread.prepare()
            watched = epoll(flags=EPOLL_CLOEXEC)
            watched.register(self._thread.wake_fd, EPOLLIN)
            self._epoll = watched
        return self._epoll

    def _drop(self, fd: int) -> None:
        one = self._members.pop(fd, None)
        if one is None:  # a handler of a signal has been faster
            return
        if self._epoll is not None:
            try:
                # A child may hold the connection, too, and it would stay registered (epoll(7)).
                self._epoll.unregister(fd)
            except OSError:
                pass
        one.close()

    def _drop_all(self) -> None:
        for fd in [*self._members]:
            self._drop(fd)

    # The thread.

    def _goes_on(self) -> bool:
        """Whether there is somebody, or may be in a moment."""
        self._pause = self._due() if self._members else self._patience
        return bool(self._members) or self._patience > 0

    def _due(self) -> float:
        """Seconds until the oldest is due."""
        return max(0.0, next(iter(self._members.values())).deadline - time.monotonic())

    def _look(self) -> None:
        """Wait until somebody moves or is due, and go on with those who do."""
        try:
            moved = self._wait()
        except BaseException:
            if self._thread.enter():
                self._drop_all()
                self._thread.lock.release()
            raise
        if moved:
            time.sleep(_PAUSE)

    def _wait(self) -> bool:
        watched, pause = self._epoll, self._pause
        assert watched is not None
        events = watched.poll(pause, _AT_ONCE)
        if not self._thread.enter():
            return False
        try:
            found = [(fd, one) for fd, _ in events if (one := self._members.get(fd)) is not None]
            for fd, one in found:
                waited_for = one.events
                if one.move():
                    self._drop(fd)
                elif one.events != waited_for:
                    watched.modify(fd, one.events)
            while self._members and not self._due():
                self._drop(next(iter(self._members)))
            self._patience = _STAY if self._members else self._patience - max(pause, _TURN)
        finally:
            self._thread.lock.release()
        return bool(found)

    # Around a fork.

    def _resume(self) -> None:
        if self._members:
            try:
                self._thread.start()
            except RuntimeError:  # no thread to be had
                self._drop_all()

    def _drop_copies(self) -> None:
        for one in self._members.values():
            one.close()
        if self._epoll is not None:
            self._epoll.close()
        self._begin()


ours: Final = Lingerers()
"""Those of this process."""


def linger(connection: socket.socket) -> None:
    """Close a connection so that its client gets all that was sent on it, though it may still be sending itself.

    For handlers that answer before they have read all of a request. Nobody waits: the connection is shut down for
    sending and read in the background until the client ends it, for two seconds and 16 MiB at the most. On an
    ``ssl.SSLSocket`` this does nothing, because the worker does it for each of them when the handler returns.

    Args:
        connection: The connection, which is given away: it is closed for whoever had it. One that is closed is ignored.
    """
    if not hasattr(connection, "unwrap"):
        ours.take(connection)
