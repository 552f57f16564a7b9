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
from typing import Any

from prefork.backoff import Retry
from prefork.distress import QUARANTINE, Distress, Log
from prefork.errors import ListenerLostError
from prefork.events import Kind
from prefork.net import verdict as table
from prefork.net.verdict import Verdict
from prefork.scoreboard import Order, State
from prefork.seat import Seat
from prefork.settings import Settings
from prefork.system.waiting import readable

Accepted = tuple[socket.socket, Any]

PATIENCE = 10.0
"""Seconds for which accept may be forbidden (EPERM) before the listener counts as lost."""

LOG_INTERVAL = 30.0
"""Seconds between two log lines about one and the same trouble."""

ROUND = 16
"""Connections between two looks at what is not worth a system call for each: whether descriptors leak, and, for an
exclusive acceptor, its place in the kernel's queue of waiters."""


class Acceptor:
    """WORKER. What both ways have in common: the recovery from a failed accept, and orders.

    Args:
        sockets: the listening sockets.
        seat: this worker's seat.
        settings: for the backoff.
        log: where trouble is told.
        distress: what is done about scarcity beside waiting.
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
        spell = Spell(self._log, Retry(self._settings.backoff))
        accepted = None
        try:
            while accepted is None and self._endure(error, listener, spell):
                try:
                    accepted = self._distress.shed(listener, accept) if spell.backs_off else None
                    accepted = accepted or accept()
                except OSError as again:
                    error = again
            return accepted
        finally:
            self._relieved(spell, accepted=accepted is not None)

    def _relieved(self, spell: Spell, *, accepted: bool) -> None:
        """A spell of trouble is over: accept succeeds again, or it is time to leave."""
        if not spell.backs_off:
            return
        self._seat.tell(Kind.RELIEF, spell.errno)
        if self.order is Order.RUN:
            self._seat.enter(State.SERVING)
        if accepted:
            spell.end()

    def _endure(self, error: OSError, listener: socket.socket, spell: Spell) -> bool:
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
        self._seat.accept_failed(number, table.place(number))
        if stopping and not (readable(listener.fileno()) and _listens(listener)):
            return False  # accept fails for want of a descriptor whether somebody waits or not
        if verdict is Verdict.POLL:
            return self._nothing_waits(listener)
        if verdict is Verdict.DEAD_CONNECTION:
            spell.dead += 1
        if verdict in _FOR_GOOD and (spell.lasts(PATIENCE, number) or not _listens(listener)):
            if verdict is Verdict.FATAL:
                raise error
            raise ListenerLostError(f"accept fails for good: {_describe(error)}") from error
        if spell.dead > table.DEAD_IN_A_ROW or verdict not in {Verdict.RETRY, Verdict.DEAD_CONNECTION}:
            self._back_off(verdict, error, spell)
        return True

    def _nothing_waits(self, listener: socket.socket) -> bool:
        """Somebody made the listener non-blocking, for all who share it: sleep until there is something again."""
        self._wait_for(listener.fileno(), None)
        return True

    def _back_off(self, verdict: Verdict, error: OSError, spell: Spell) -> None:
        """Wait a growing time outside the kernel's queue; an order to leave ends the wait at once."""
        if not spell.backs_off and self.order is Order.RUN:
            self._seat.enter(State.BACKING_OFF)
        if spell.note(error, level=_LEVELS.get(verdict, logging.WARNING)):
            self._seat.tell(Kind.PRESSURE, spell.errno)
        self._distress.starved(verdict)
        self._rest(spell.retry.next(), system=verdict is Verdict.BACK_OFF_SYSTEM)

    @property
    def _held(self) -> bool:
        """Whether it is for another worker to find out that the system's shortage is over."""
        return self.order is Order.RUN and not self._seat.prober and not readable(self._seat.go)

    def _rest(self, seconds: float, *, system: bool = False) -> None:
        """Accept nothing for ``seconds``, and when the ``system`` is short not before that is over."""
        self._wait_for(None, seconds)
        while system and self._held:
            self._wait_for(self._seat.go, 1.0)

    def _after_a_round(self) -> None:
        """A worker that leaks takes no more connections while its replacement is on its way; its siblings serve."""
        if self._distress.leaks():
            self._rest(QUARANTINE)

    def _wait_for(self, fd: int | None, seconds: float | None) -> None:
        """Sleep until ``fd`` is readable, an order to leave comes, or ``seconds`` are over."""
        descriptors = [] if fd is None else [fd]
        if self.order is Order.RUN:
            descriptors.append(self._stop_fd)
        readable(*descriptors, seconds=seconds)


_FOR_GOOD = {Verdict.LISTENER_LOST, Verdict.FATAL, Verdict.BACK_OFF_PERMISSION}
"""Verdicts that end the worker: at once when the listener does not listen, else when nothing else comes for PATIENCE.

An errno that says the listener is lost while SO_ACCEPTCONN says that it listens is waited out: a worker's end would
cost more than a wait, and would not mend it.
"""

_LEVELS = {
    Verdict.BACK_OFF_SYSTEM: logging.DEBUG,  # said once, by the master, for all workers
    Verdict.LISTENER_LOST: logging.CRITICAL,
    Verdict.FATAL: logging.CRITICAL,
    Verdict.BACK_OFF_PERMISSION: logging.ERROR,
}


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
        make, one_round = socket.socket, range(ROUND)
        while True:
            for _ in one_round:
                try:
                    descriptor, address = accept()
                except OSError as error:
                    recovered = self._recover(error, listener, accept)
                    if recovered is None:
                        return
                    descriptor, address = recovered
                yield make(family, kind, protocol, descriptor), address
            self._after_a_round()


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
                if since >= ROUND:
                    since = 0
                    self._after_a_round()
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


class Spell:
    """One spell of trouble: told in the log when it begins, now and then, and when it ends; not for each retry."""

    def __init__(self, log: Log, retry: Retry) -> None:
        self.retry = retry
        self.dead = 0
        """Dead connections, in a row."""
        self.errno = 0
        """The last failure that made us wait; 0 while there was none."""
        self._log = log
        self._level = logging.WARNING
        self._began = 0.0
        self._changed = 0.0
        self._told = 0.0
        self._failures = 0

    @property
    def backs_off(self) -> bool:
        """Whether it has come to waiting."""
        return self.errno != 0

    def note(self, error: OSError, level: int) -> bool:
        """A failure that makes us wait.

        Returns:
            Whether it is worth telling: another errno than before, or the same for a long time.
        """
        now = time.monotonic()
        number = error.errno or -1
        self._failures += 1
        if not self.backs_off:
            self._began = now
        if number != self.errno:
            self._changed = now
        elif now - self._told < LOG_INTERVAL:
            return False
        self.errno, self._told, self._level = number, now, level
        self._log.log(level, "accept fails: %s; waiting (failure %d)", _describe(error), self._failures)
        return True

    def lasts(self, seconds: float, number: int) -> bool:
        """Whether ``number`` has been the only failure for that long."""
        return number == self.errno and time.monotonic() - self._changed >= seconds

    def end(self) -> None:
        """It is over."""
        seconds = time.monotonic() - self._began
        level = min(self._level, logging.WARNING)
        self._log.log(level, "accept goes on after %.1f s and %d failures", seconds, self._failures)


def _listens(listener: socket.socket) -> bool | None:
    """SO_ACCEPTCONN of ``listener`` (socket(7)); None when it can't be asked."""
    try:
        return bool(listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return None


def _describe(error: OSError) -> str:
    name = errno.errorcode.get(error.errno or 0, "?")
    return f"{name}, {table.row(error.errno or 0).reason}"
