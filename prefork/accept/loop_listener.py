"""The inlet: a worker's listening socket, as somebody else's event loop can use it.

A foreign loop takes connections in its own way: it waits until the listener is readable, calls accept, and knows
neither orders nor what to do when descriptors run out. An inlet is what it is given in the listener's place. It is a
``socket.socket`` in everything but this:

* ``fileno()`` is an epoll descriptor that watches the listener (epoll(7): it is readable whenever the listener is, and
  can itself be watched by select, poll, epoll). So the inlet decides what the loop sees. It is silent before the worker
  is READY, while accept is to rest after a failure (a timer in the same epoll ends that), and once the worker has been
  told to leave. dup2, which seals a listener for a blocking accept, would not do: an epoll registration stays behind
  on the open file description.
* accept never blocks and fails with EAGAIN only. What else goes wrong is dealt with as :mod:`prefork.accept.recovery`
  says.
* ``listen()``, ``setblocking()``, ``settimeout()`` and ``shutdown()`` do nothing to the listener, because all workers
  share it: servers that are given a socket set its backlog anew, or shut it down when they stop.

All of it runs in the thread of the loop.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from prefork.accept.acceptor import HOLD_LOOK
from prefork.accept.raw_socket import Raw, raw_accept
from prefork.accept.recovery import Do, Recovery, Rest
from prefork.accept.unread_headers import UnreadHeaders
from prefork.accept.worker_context import WorkerContext
from prefork.net.proxy_reader import ProxiedSocket, ProxyReader
from prefork.scoreboard.events import Why
from prefork.system.natives import os, select, socket
from prefork.system.timerfd import TimerFd

EPOLL_CLOEXEC = select.EPOLL_CLOEXEC
EPOLLIN = select.EPOLLIN
epoll = select.epoll


class Intake:
    """The third way to accept: when a loop says that there may be something, without ever waiting.

    Args:
        listener: the listening socket; non-blocking.
        given: what the worker is given.
        one_at_a_time: whether a call that has given a connection is followed by one that gives none, for a loop that
            otherwise calls until nothing waits, and so would leave nothing to its siblings.
        taken: called after each connection.
        proxies: reads what proxies say of connections, which the loop doesn't see; None when they say nothing.

    Raises:
        OSError: no descriptor for what it needs.
    """

    def __init__(
        self,
        listener: socket.socket,
        given: WorkerContext,
        *,
        one_at_a_time: bool,
        taken: Callable[[], object],
        proxies: ProxyReader | None = None,
    ) -> None:
        self._listener = listener
        self._accept = raw_accept(listener)
        self._entry = given.entry
        self._log = given.log
        self._shedder = given.shedder
        self._recovery = Recovery(given.entry, given.settings, given.log, given.leaks)
        self._taken = taken
        self._one_at_a_time = one_at_a_time
        self._pausing = False
        self._timer = TimerFd()
        self._epoll = epoll(flags=EPOLL_CLOEXEC)
        self._strangers = None if proxies is None else UnreadHeaders(listener, proxies)
        self._watched: set[int] = set()
        self._closed = False
        self._rest_taken: Rest | None = None

    def fileno(self) -> int:
        """What the loop is to watch; -1 once it is closed."""
        return -1 if self._closed else self._epoll.fileno()

    def open(self) -> None:
        """Let connections come. Idempotent."""
        if not self._closed:
            self._watch(self._entry.stop_fd, self._timer.fileno(), self._listener.fileno())
            if self._strangers is not None:
                self._watch(self._strangers.fileno())

    def take(self) -> Raw:
        """Accept.

        Returns:
            A descriptor and the peer's address, as accept(2) gives them.

        Raises:
            BlockingIOError: there is nothing for this worker at present.
        """
        if self._strangers is not None and not self._pausing:
            known = self._strangers.next()
            if known is not None:
                return self._given(known)
        if self._pausing or not self._watched or self._recovery.sealed or not self._rested():
            self._pausing = False
            if self._recovery.sealed:
                self._retire()
            raise _nothing()
        accepted = None
        try:
            while accepted is None:
                accepted = self._try()
        except BlockingIOError:
            raise
        except OSError as error:
            # Not for the loop to make something of: this worker is to be replaced.
            self._log.critical("%s", error)
            self._entry.ask_to_be_recycled(Why.LISTENER_LOST)
            self._retire()
            raise _nothing() from error
        self._recovery.over()
        return self._given(accepted)

    @property
    def proxied(self) -> bool:
        """Whether connections have true peers, of whom their sockets don't know."""
        return self._strangers is not None

    def _given(self, accepted: Raw) -> Raw:
        self._pausing = self._one_at_a_time
        self._taken()
        return accepted

    def part(self) -> None:
        """In a process that the application has forked: be silent, and leave the epoll alone, which both share."""
        if not self._closed:
            with epoll(flags=EPOLL_CLOEXEC) as own:
                os.dup2(own.fileno(), self._epoll.fileno(), inheritable=False)
            self._watched.clear()
            if self._strangers is not None:
                self._strangers.part()

    def close(self) -> None:
        """Stop for good and give the descriptors back. Idempotent."""
        if not self._closed:
            self._retire()
            if self._strangers is not None:
                self._strangers.close()
            self._closed = True
            self._epoll.close()
            self._timer.close()

    def _try(self) -> Raw | None:
        """Accept once; None when it is to be tried again at once."""
        listener, recovery = self._listener, self._recovery
        try:
            shed = self._shedder.shed(listener) if recovery.exhausted and self._shedder.may_shed else None
            accepted = shed or self._accept()
        except BlockingIOError:
            recovery.over()
            if recovery.leaving:
                self._retire()
            raise _nothing() from None
        except OSError as error:
            step = recovery.decide(error, listener)
            if step is Do.AGAIN:
                return None
            if isinstance(step, Rest):
                self._begin(step)
            elif step is not Do.NOTHING:
                self._retire()
            raise _nothing() from error
        return accepted if self._strangers is None else self._strangers.introduce(accepted)

    def _begin(self, rest: Rest) -> None:
        """Accept nothing for as long as ``rest`` says."""
        self._rest_taken = rest
        self._unwatch(self._listener.fileno())
        self._timer.set(rest.seconds)

    def _rested(self) -> bool:
        """Whether there is no rest to be taken any more; who asks has been woken by something.

        An order to leave ends a rest, once: from then on the word of it, which stays readable, is looked away from.
        """
        rest, go, told = self._rest_taken, self._entry.go, self._entry.stop_fd
        if rest is None:
            return True
        if self._recovery.leaving and told in self._watched:
            self._unwatch(told)
        elif not self._timer.take_tick() and go not in self._watched:
            return False
        elif rest.system and self._recovery.held:
            self._watch(go)
            self._timer.set(HOLD_LOOK)
            return False
        self._unwatch(go)
        self._timer.stop()  # what has ended the rest may be something else, and nobody would take its tick
        self._rest_taken = None
        self._recovery.rested()
        self._watch(self._listener.fileno())
        return True

    def _retire(self) -> None:
        """Be silent from now on, but for those who are taken already and are to say whose connection it is."""
        kept = () if self._strangers is None or not len(self._strangers) else (self._strangers.fileno(),)
        self._unwatch(*self._watched.difference(kept))

    def _watch(self, *descriptors: int) -> None:
        for fd in descriptors:
            if fd not in self._watched:
                self._epoll.register(fd, EPOLLIN)
                self._watched.add(fd)

    def _unwatch(self, *descriptors: int) -> None:
        for fd in descriptors:
            if fd in self._watched:
                self._watched.discard(fd)
                self._epoll.unregister(fd)


class Inlet(socket.socket):
    """What a foreign loop takes for its listening socket; made by :meth:`prefork.Worker.inlets`.

    Args:
        intake: accepts.
        listener: the listening socket, which stays the worker's.

    Raises:
        OSError: no descriptor for a copy of the listener's.
    """

    def __init__(self, intake: Intake, listener: socket.socket) -> None:
        # A descriptor of its own, so that getsockname() and the like work, and close() costs the worker nothing.
        super().__init__(listener.family, listener.type, listener.proto, fileno=os.dup(listener.fileno()))
        super().setblocking(False)
        self._intake = intake

    def fileno(self) -> int:
        """The descriptor to wait on; never to accept on."""
        return self._intake.fileno()

    def _accept(self) -> Raw:
        """What ``accept()``, and gevent, build upon."""
        return self._intake.take()

    def accept(self) -> tuple[socket.socket, Any]:
        """As any listening socket's, but that it never blocks."""
        if not self._intake.proxied:
            return super().accept()
        fd, address = self._intake.take()
        return ProxiedSocket.of(self, fd, address), address

    def listen(self, backlog: int = 0, /) -> None:
        """Do nothing: it listens, and the length of its queue is a setting (``backlog``)."""

    def setblocking(self, flag: bool, /) -> None:
        """Do nothing: it never blocks."""

    def settimeout(self, value: float | None, /) -> None:
        """Do nothing: it never blocks."""

    def shutdown(self, how: int, /) -> None:  # noqa: ARG002  # the socket's own signature
        """Take no more connections in this worker, whatever ``how``: all of them share the listener."""
        self._intake.close()

    def close(self) -> None:
        """Take no more connections in this worker."""
        self._intake.close()
        super().close()


def inlet_on(
    listener: socket.socket,
    given: WorkerContext,
    *,
    one_at_a_time: bool,
    taken: Callable[[], object],
    proxies: ProxyReader | None = None,
) -> tuple[Intake, Inlet]:
    """An inlet on a listener, silent as yet; no process that the application forks hears anything by it.

    Args:
        listener: the listening socket, which doesn't block from now on.
        given: what the worker is given.
        one_at_a_time: as for `Intake`, and so is ``taken``.
        taken: called after each connection.
        proxies: as for `Intake`.

    Raises:
        OSError: no descriptors to be had.
    """
    listener.setblocking(False)
    intake = Intake(listener, given, one_at_a_time=one_at_a_time, taken=taken, proxies=proxies)
    given.offspring.parted.append(intake.part)
    return intake, Inlet(intake, listener)


def _nothing() -> BlockingIOError:
    return BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
