"""How a worker accepts, and what it does when accept(2) fails.

Two ways, one recovery. :class:`Blocking` contends with its siblings in a blocking accept on one listener: no poll, no
lock, the kernel wakes one of them (accept(2); the wait is exclusive and first in, first out). :class:`Exclusive` serves
several listeners through epoll with EPOLLEXCLUSIVE (epoll_ctl(2)) and registers anew every few connections, because the
kernel wakes the earliest registrant first.

Both are generators of accepted connections. As long as accept succeeds, nothing but accept is called. The first failure
leads into :meth:`Acceptor._recover`, whose local variables are the memory of this one spell of trouble; a success ends
it, and with it every count and delay. While a worker backs off it sleeps outside the kernel's wait queue, so that its
siblings get the connections; the sleep ends at once when an order to leave comes.

How a worker is stopped:

* SEAL, blocking: the signal handler puts an inert socket in the listener's place (dup2(2)). The interrupted accept is
  retried by the interpreter (PEP 475) and fails with EINVAL, in this process alone; one that had succeeded is served.
* SEAL, exclusive: the wake-up descriptor ends epoll_wait. (dup2 would leave the registration behind, on the open file
  description, and epoll would spin.)
* DRAIN: the master has made the listener non-blocking; accept goes on until it fails with EAGAIN.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from prefork.backoff import Retry
from prefork.errors import ListenerLostError
from prefork.events import Kind
from prefork.net import verdict as table
from prefork.net.verdict import Verdict
from prefork.scoreboard import Order, State
from prefork.seat import Seat
from prefork.settings import Settings

Accepted = tuple[socket.socket, Any]
Log = logging.Logger | logging.LoggerAdapter[logging.Logger]

PATIENCE = 10.0
"""Seconds for which accept may be forbidden (EPERM) before the listener counts as lost."""

LOG_INTERVAL = 30.0
"""Seconds between two log lines about one and the same trouble."""

REREGISTER = 16
"""Connections after which an exclusive acceptor goes to the back of the kernel's queue of waiters."""


class Distress(Protocol):
    """What a worker does about scarcity beside waiting; called when accept failed and every time after a wait."""

    def __call__(self, verdict: Verdict, error: OSError) -> None:
        """Accept failed with ``error``."""


class Acceptor:
    """WORKER. What both ways have in common: the recovery from a failed accept, and orders.

    Args:
        sockets: the listening sockets.
        seat: this worker's seat.
        settings: for the backoff.
        log: where trouble is told.
        distress: called for every failure that backs off.
        stop_fd: a descriptor that becomes readable when an order to leave has come.

    Raises:
        OSError: no descriptor for what it needs to be stopped by.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        seat: Seat,
        settings: Settings,
        log: Log,
        distress: Distress,
        stop_fd: int,
    ) -> None:
        self._sockets = sockets
        self._seat = seat
        self._settings = settings
        self._log = log
        self._distress = distress
        self._stop_fd = stop_fd
        self.order = Order.RUN

    def connections(self) -> Iterator[Accepted]:
        """Accepted connections with the peer's address, one at a time, until an order to leave is carried out.

        Raises:
            ListenerLostError: the listener is no listening socket any more.
            OSError: a programming error (EBADF, ENOTSOCK, EFAULT, bad flags).
        """
        raise TypeError(f"{type(self).__name__} does not say how it accepts")

    def obey(self, order: Order) -> None:
        """Carry ``order`` out. Runs inside a signal handler, between any two instructions of the loop."""
        self.order = max(self.order, order)

    @property
    def sealed(self) -> bool:
        """Whether nothing more is to be accepted."""
        return self.order in {Order.SEAL, Order.QUIT}

    def _recover(
        self, error: OSError, listener: socket.socket, accept: Callable[[], tuple[int, Any]]
    ) -> tuple[int, Any] | None:
        """Do what the table says about ``error`` until an accept succeeds.

        Returns:
            What accept returned; None when it is time to leave.
        """
        spell = _Spell(self._log, Retry(self._settings.backoff))
        try:
            while self._endure(error, listener, spell):
                try:
                    accepted = accept()
                except OSError as again:
                    error = again
                else:
                    return accepted
            return None
        finally:
            if spell.began is not None:
                self._seat.tell(Kind.RELIEF)
                if self.order is Order.RUN:
                    self._seat.enter(State.SERVING)
                spell.end()

    def _endure(self, error: OSError, listener: socket.socket, spell: _Spell) -> bool:
        """Do once what the table says about ``error``.

        Returns:
            Whether to accept again; False when this listener has no more for us.
        """
        number = error.errno or 0
        listening = _listens(listener) if table.row(number).deaf is not None else None
        # The order itself, not only what a handler has made of it: accept may fail because of the order, before the
        # interpreter comes to run the handler of the signal that points to it.
        stopping = self.order is not Order.RUN or self._seat.order is not Order.RUN
        verdict = table.resolve(number, stopping=stopping, listening=listening)
        if verdict is Verdict.STOP or self.sealed:
            return False
        self._seat.accept_failed(number, verdict)
        if verdict is Verdict.POLL:
            return self._nothing_waits(listener)
        if verdict is Verdict.LISTENER_LOST or spell.lasts(PATIENCE, errno.EPERM, number):
            raise ListenerLostError(f"accept failed for good: {_describe(error)}") from error
        if verdict is Verdict.FATAL:
            raise error
        if verdict is Verdict.DEAD_CONNECTION:
            spell.dead += 1
        if spell.dead > table.DEAD_IN_A_ROW or verdict not in {Verdict.RETRY, Verdict.DEAD_CONNECTION}:
            self._back_off(verdict, error, spell)
        return True

    def _nothing_waits(self, listener: socket.socket) -> bool:
        """Somebody made the listener non-blocking, for all who share it: sleep until there is something again."""
        self._wait_for(listener.fileno(), None)
        return True

    def _back_off(self, verdict: Verdict, error: OSError, spell: _Spell) -> None:
        """Wait a growing time outside the kernel's queue; an order to leave ends the wait at once."""
        if spell.began is None:
            self._seat.enter(State.BACKING_OFF)
        spell.note(error)
        if spell.worth_telling:
            self._seat.tell(Kind.PRESSURE, error.errno or 0)
        self._distress(verdict, error)
        self._wait_for(None, spell.retry.next())
        if verdict is Verdict.BACK_OFF_SYSTEM:
            while self.order is Order.RUN and not self._seat.prober and not self._go():
                self._wait_for(self._seat.go, 1.0)

    def _go(self) -> bool:
        """Whether workers may accept as far as the system is concerned."""
        return bool(select.select([self._seat.go], [], [], 0)[0])

    def _wait_for(self, fd: int | None, seconds: float | None) -> None:
        """Sleep until ``fd`` is readable, an order to leave comes, or ``seconds`` are over."""
        poller = select.poll()
        if self.order is Order.RUN:
            poller.register(self._stop_fd, select.POLLIN)
        if fd is not None:
            poller.register(fd, select.POLLIN)
        poller.poll(None if seconds is None else seconds * 1000)


class Blocking(Acceptor):
    """WORKER. One listener, a blocking accept on it."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        seat: Seat,
        settings: Settings,
        log: Log,
        distress: Distress,
        stop_fd: int,
    ) -> None:
        super().__init__(sockets, seat, settings, log, distress, stop_fd)
        (self._listener,) = sockets
        self._inert = socket.socket(self._listener.family, self._listener.type)

    def obey(self, order: Order) -> None:
        """Carry ``order`` out: for SEAL put the inert socket in the listener's place, in this process alone."""
        super().obey(order)
        if self.sealed:
            os.dup2(self._inert.fileno(), self._listener.fileno(), inheritable=False)

    def connections(self) -> Iterator[Accepted]:
        """Accepted connections; see :meth:`Acceptor.connections`."""
        listener = self._listener
        accept = listener._accept  # type: ignore[attr-defined]  # (fd, address), cheaper than socket.accept()
        family, kind, protocol = int(listener.family), int(listener.type), listener.proto
        make = socket.socket
        while True:
            try:
                descriptor, address = accept()
            except OSError as error:
                recovered = self._recover(error, listener, accept)
                if recovered is None:
                    return
                descriptor, address = recovered
            yield make(family, kind, protocol, descriptor), address


class Exclusive(Acceptor):
    """WORKER. Several listeners, all non-blocking, one connection at a time, without a herd."""

    def connections(self) -> Iterator[Accepted]:
        """Accepted connections; see :meth:`Acceptor.connections`."""
        with select.epoll(flags=select.EPOLL_CLOEXEC) as epoll:
            epoll.register(self._stop_fd, select.EPOLLIN)
            for listener in self._sockets:
                epoll.register(listener, _EXCLUSIVE)
            since = 0
            by_fd = {listener.fileno(): listener for listener in self._sockets}
            while self.order is Order.RUN:
                for fd, _ in epoll.poll(maxevents=1):
                    if fd == self._stop_fd:
                        break
                    accepted = self._take(by_fd[fd])
                    if accepted is not None:
                        yield accepted
                        since += 1
                if since >= REREGISTER:
                    since = 0
                    for listener in self._sockets:
                        epoll.unregister(listener)
                        epoll.register(listener, _EXCLUSIVE)
        yield from self._drain()

    def _nothing_waits(self, listener: socket.socket) -> bool:  # noqa: ARG002  # the other way needs it
        """A sibling was faster: back to all listeners."""
        return False

    def _take(self, listener: socket.socket) -> Accepted | None:
        """Accept one connection if there still is one."""
        accept = listener._accept  # type: ignore[attr-defined]  # see Blocking
        try:
            descriptor, address = accept()
        except BlockingIOError:
            return None
        except OSError as error:
            recovered = self._recover(error, listener, accept)
            if recovered is None:
                return None
            descriptor, address = recovered
        return socket.socket(listener.family, listener.type, listener.proto, descriptor), address

    def _drain(self) -> Iterator[Accepted]:
        """After an order to leave: for DRAIN, whatever still waits on any listener."""
        for listener in self._sockets:
            while not self.sealed:
                accepted = self._take(listener)
                if accepted is None:
                    break
                yield accepted


_EXCLUSIVE = select.EPOLLIN | select.EPOLLEXCLUSIVE


class _Spell:
    """One spell of trouble: told in the log when it begins, now and then, and when it ends; not for each retry."""

    def __init__(self, log: Log, retry: Retry) -> None:
        self._log = log
        self.retry = retry
        self.dead = 0
        """Dead connections, in a row."""
        self.began: float | None = None
        self._told = 0.0
        self._failures = 0
        self._last: OSError | None = None
        self._changed = 0.0
        self.worth_telling = False

    def note(self, error: OSError) -> None:
        """A failure that made us wait."""
        now = time.monotonic()
        self._failures += 1
        changed = self._last is None or self._last.errno != error.errno
        self.worth_telling = changed or now - self._told >= LOG_INTERVAL
        if changed:
            self._changed = now
        if self.began is None:
            self.began = now
        if self.worth_telling:
            self._told = now
            self._log.warning("accept fails: %s; waiting (%d failures so far)", _describe(error), self._failures)
        self._last = error

    def lasts(self, seconds: float, errno: int, number: int) -> bool:
        """Whether ``errno``, which ``number`` is, has been the only failure for that long."""
        if number != errno or self._last is None or self._last.errno != errno:
            return False
        return time.monotonic() - self._changed >= seconds

    def end(self) -> None:
        """It is over."""
        if self.began is not None:
            seconds = time.monotonic() - self.began
            self._log.warning("accept goes on after %.1f s and %d failures", seconds, self._failures)


def _listens(listener: socket.socket) -> bool | None:
    """SO_ACCEPTCONN of ``listener`` (socket(7)); None when it can't be asked."""
    try:
        return bool(listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return None


def _describe(error: OSError) -> str:
    name = errno.errorcode.get(error.errno or 0, "?")
    return f"{name}, {table.row(error.errno or 0).reason}"
