"""How a worker accepts.

Two ways, one recovery. :class:`Blocking` contends with its siblings in a blocking accept on one listener: no poll, no
lock, the kernel wakes one of them (accept(2); the wait is exclusive and first in, first out). :class:`Exclusive` serves
several listeners through epoll with EPOLLEXCLUSIVE (epoll_ctl(2)) and registers anew every few connections, because the
kernel wakes the earliest registrant first. A sibling that was woken and could not accept has had the only wake-up there
is; it writes to ``go``, whose edge wakes another one, and to register anew is also to find what waits.

Both are generators of accepted connections. As long as accept succeeds, nothing but accept is called; the first failure
leads into the :mod:`recovery <prefork.accept.recovery>`.

An application may have an exception raised in its worker at any moment: by a handler of a signal (a late SIGALRM), or
from another thread (PyThreadState_SetAsyncExc). One that comes when its request is over meets the acceptor, at the
latest when accept returns with the next connection. So what accept gives is stored without a moment in between: the
interpreter looks for signals and exceptions after calls, at the start of functions and at backward jumps, but not
between the step of a ``for`` over an iterator made of C and the assignment of what it gave. From there on the
descriptor is always in an attribute or in a socket that is, until it is yielded. An exception ends a generator; the
next that :meth:`Acceptor.connections` makes begins with what that one had in hand.

How a worker is stopped:

* SEAL, blocking: the signal handler puts an inert socket in the listener's place (dup2(2)). The interrupted accept is
  retried by the interpreter (PEP 475) and fails with EINVAL, in this process alone; one that had succeeded is served.
* SEAL, exclusive: the wake-up descriptor ends epoll_wait. (dup2 would leave the registration behind, on the open file
  description, and epoll would spin.)
* DRAIN: the master has made the listener non-blocking; accept goes on until it fails with EAGAIN.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from prefork.accept.fd_leak import QUARANTINE
from prefork.accept.idle_work import IdleWork
from prefork.accept.raw_socket import UNKNOWN, Accept, Raw, allocate, initialise, new_socket, numbers_of, raw_accept
from prefork.accept.recovery import Do, Recovery, Rest
from prefork.accept.worker_context import WorkerContext
from prefork.errors import ListenerLostError
from prefork.system import limits
from prefork.system.descriptors import readable
from prefork.system.forks import HERE
from prefork.system.natives import os, select, socket, time

Accepted = tuple[socket.socket, Any]

_LEAVE = Do.LEAVE

HOLD_LOOK = 1.0
"""Seconds between two looks at who probes, while this worker holds because the system is exhausted."""


class Acceptor:
    """What both ways have in common.

    Args:
        given: what the worker is given; its sockets are what is accepted on.

    Attributes:
        idle: what is done between two connections; None is nothing. To be set before the first is asked for.
    """

    idle: IdleWork | None = None

    def __init__(self, given: WorkerContext) -> None:
        self._sockets = given.sockets
        self._entry = given.entry
        self._log = given.log
        self._leaks = given.leaks
        self._shedder = given.shedder
        self._recovery = Recovery(given.entry, given.settings, given.log, given.leaks)
        self._turn = 0
        self._raw: Raw | None = None  # accepted, and not yet yielded
        self._made: socket.socket | None = None  # what becomes of it

    def connections(self) -> Iterator[Accepted]:
        """Accepted connections with the peer's address, one at a time, until an order to leave is carried out.

        Raises:
            ListenerLostError: the listener is no listening socket any more.
            OSError: a programming error (EBADF, ENOTSOCK, EFAULT, bad flags).
            BaseException: what the application has had raised here. Nothing is lost by it: ask for another iterator.
        """
        raise NotImplementedError  # and no abc: its metaclass costs each boot ten pages

    def obey(self) -> None:
        """Do what the order asks for beyond its being known. In a signal handler, between any two instructions."""

    @property
    def given_up(self) -> bool:
        """Whether what a generator has raised is ours: nothing more can be accepted."""
        return self._recovery.given_up

    # What the two ways do differently.

    def somebody_waits(self) -> bool:
        """Whether there is something to do at once."""
        raise NotImplementedError  # as above

    def withdraw(self) -> None:
        """Give what is kept here to siblings, as far as they take it."""

    def _nothing_waits(self, listener: socket.socket) -> bool:  # noqa: ARG002  # the other way needs it
        """Accept has found nothing. Returns whether to accept from this listener again."""
        return False

    def _probe(self) -> bool:
        """Find out whether there are descriptors and memory for a connection, without waiting for one.

        Returns:
            True when there are; False when accept itself doesn't block, and will tell.

        Raises:
            OSError: what accept would fail with.
        """
        return False

    # What they have in common.

    def _recover(self, error: OSError, listener: socket.socket, accept: Accept) -> Accepted | None:
        """Do what is to be done about ``error``, a failure of ``accept``, until that succeeds.

        Returns:
            A connection, perhaps another listener's; None when this one has no more for us now.
        """
        while True:
            step = self._recovery.decide(error, listener)
            if step is _LEAVE:
                return None
            if isinstance(step, Rest):
                accepted = self._rest(step)
                if accepted is not None:
                    return accepted
            elif not self._goes_on(step, listener):
                return None
            if self._recovery.sealed:
                return None
            try:
                self._attempt(accept)
            except OSError as again:
                self._own(again)
                error = again
            else:
                return self._left()

    def _attempt(self, accept: Accept) -> None:
        """Accept again after a failure.

        Raises:
            OSError: it has failed again.
        """
        if self._recovery.exhausted and self._probe():
            self._recovery.relieved()  # before accept blocks: others may wait for the word
        for self._raw in iter(accept, None):
            break
        self._recovery.over()

    def _own(self, error: OSError) -> None:
        """Raise ``error`` if it is none of accept(2)'s, but was raised by the application, as TimeoutError often is."""
        if self._raw is not None or error.errno is None:
            raise error

    def _left(self) -> Accepted | None:
        """The connection that has been accepted and not yielded, if there is one."""
        raw = self._raw
        if raw is None:
            return None
        if self._made is None:
            self._made = allocate(new_socket)
        made = self._made
        if made.fileno() < 0:
            initialise(made, *UNKNOWN, raw[0])
        return self._whole(made, raw)

    def _whole(self, made: socket.socket, raw: Raw) -> Accepted:
        made._io_refs, made._closed = 0, False  # type: ignore[attr-defined]  # noqa: SLF001  # as __init__
        self._raw = self._made = None
        return made, raw[1]

    def _goes_on(self, step: Do, listener: socket.socket) -> bool:
        """Whether to accept from ``listener`` again, after whatever wait that asks for.

        Raises:
            ListenerLostError: it is lost, and no order to leave has come.
        """
        match step:
            case Do.AGAIN:
                return True
            case Do.NOTHING:
                return self._nothing_waits(listener)
        self._wait_for_a_successor()
        if self._recovery.leaving:
            return False
        raise ListenerLostError("this worker can't accept any more, and no replacement has come")

    def _rest(self, rest: Rest) -> Accepted | None:
        """Accept nothing for a while, but shed if that is wanted; an order to leave ends it at once.

        Returns:
            A connection that was accepted to be shed and can be served after all.
        """
        end = time.monotonic() + rest.seconds
        while self._recovery.exhausted and self._shedder.sheds and not self._recovery.leaving:
            self._wait_for(min(self._shedder.pause, end - time.monotonic()))
            self._wait_for(end - time.monotonic(), *(listener.fileno() for listener in self._sockets))
            if time.monotonic() >= end:
                break
            accepted = self._shed()
            if accepted is not None:
                self._recovery.over()
                return accepted
        self._wait_for(end - time.monotonic())
        while rest.system and self._recovery.held:
            self._wait_for(HOLD_LOOK, self._entry.go)
        self._recovery.rested()
        return None

    def _shed(self) -> Accepted | None:
        """Shed one of those who wait, at any listener: each has its turn, and nobody else looks after them now."""
        for _ in self._sockets:
            listener = self._sockets[self._turn % len(self._sockets)]
            self._turn += 1
            if readable(listener.fileno()):
                self._raw = self._shedder.shed(listener)
                return self._left()
        return None

    def handler_exhausted(self) -> None:
        """A handler has met the limit of descriptors."""
        if self._leaks.leaks_at_the_limit():
            self._wait_for_a_successor()

    def _after_a_round(self) -> None:
        """A worker that leaks takes no more connections while its replacement is on its way; its siblings serve."""
        if self._leaks.leaks():
            self._wait_for_a_successor()

    def _wait_for_a_successor(self) -> None:
        """Accept nothing while a replacement is on its way. Not for one moment once there is an order to leave."""
        self._wait_for(QUARANTINE, self._entry.stop_fd)

    def _wait_for(self, seconds: float | None, *descriptors: int) -> None:
        """Sleep until one of ``descriptors`` is readable, an order to leave comes, or ``seconds`` are over.

        An order to drain ends it once; what is slept after that is slept.
        """
        if self._recovery.sealed:
            return
        if not self._recovery.leaving:
            descriptors = (*descriptors, self._entry.stop_fd)
        readable(*descriptors, seconds=seconds)


class Blocking(Acceptor):
    """One listener, a blocking accept on it.

    Args:
        given: as for :class:`Acceptor`.
        inert: a stream socket that does not listen, and never will.
    """

    def __init__(self, given: WorkerContext, inert: socket.socket) -> None:
        super().__init__(given)
        (self._listener,) = given.sockets
        self._inert = inert
        self._accept = raw_accept(self._listener)
        self._kind = numbers_of(self._listener)
        self._probe_accept = raw_accept(inert)

    def somebody_waits(self) -> bool:
        """Whether a connection waits to be accepted."""
        return readable(self._listener.fileno())

    def obey(self) -> None:
        """For SEAL put the inert socket in the listener's place, in this process alone."""
        if not self._recovery.sealed:
            return
        try:
            self._put_inert_in_place()
        except OSError:
            # dup2 gives no number beyond the limit of descriptors, not even one that is open, and the limit may have
            # been lowered since (prlimit(2)).
            with limits.room_for(self._listener.fileno()):
                self._put_inert_in_place()

    def _put_inert_in_place(self) -> None:
        os.dup2(self._inert.fileno(), self._listener.fileno(), inheritable=False)

    def _nothing_waits(self, listener: socket.socket) -> bool:
        """Somebody made the listener non-blocking, for all who share it: sleep until there is something again."""
        self._wait_for(None, listener.fileno())
        return True

    def _probe(self) -> bool:
        """The kernel takes a descriptor and a file first, and only then finds that a socket does not listen."""
        try:
            self._probe_accept()
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        return True

    def connections(self) -> Iterator[Accepted]:
        """Accepted connections; see :meth:`Acceptor.connections`."""
        left = self._left()
        if left is not None:
            yield left
        accept = self._accept
        accepted = iter(accept, None)
        family, kind, protocol = self._kind
        make, fill, cls, one_round, idle = allocate, initialise, new_socket, self._leaks.round, self.idle
        while True:
            try:
                for self._raw in islice(accepted, one_round):
                    made = self._made = make(cls)
                    descriptor, address = self._raw
                    fill(made, family, kind, protocol, descriptor)
                    made._io_refs, made._closed = 0, False  # type: ignore[attr-defined]  # noqa: SLF001  # as __init__
                    self._raw = self._made = None  # noqa: PLW2901  # it is the loop's on purpose: see above
                    yield made, address
                    if idle is not None and idle.due:
                        idle.between(self)
            except OSError as error:
                self._own(error)
                recovered = self._recover(error, self._listener, accept)
                if recovered is None:
                    return
                yield recovered
            else:
                self._after_a_round()


class Exclusive(Acceptor):
    """Several listeners, all non-blocking, one connection at a time, without a herd.

    Raises:
        OSError: no descriptor for what it needs.
    """

    def __init__(self, given: WorkerContext) -> None:
        super().__init__(given)
        entry, sockets = given.entry, given.sockets
        self._epoll = select.epoll(flags=select.EPOLL_CLOEXEC)
        self._epoll.register(entry.stop_fd, select.EPOLLIN)
        # Two descriptors of each listener: the one that is registered, and the one that will be next.
        self._pairs = [[listener.fileno(), os.dup(listener.fileno())] for listener in sockets]
        self._takers: dict[int, Callable[[], Accepted | None]] = {}
        for pair, listener in zip(self._pairs, sockets, strict=True):
            self._epoll.register(pair[0], _EXCLUSIVE)
            self._takers |= dict.fromkeys(pair, self._taker(listener))
        self._takers[entry.go] = self._stand_behind
        self._epoll.register(entry.go, _EXCLUSIVE | select.EPOLLET)

    def somebody_waits(self) -> bool:
        """Whether a connection waits to be accepted, or whatever else this worker waits for is there."""
        return readable(self._epoll.fileno())

    def obey(self) -> None:
        """Nothing: the descriptor by which this worker is told to leave ends its wait."""

    def connections(self) -> Iterator[Accepted]:
        """Accepted connections; see :meth:`Acceptor.connections`."""
        left = self._left()
        if left is not None:
            yield left
        epoll, takers, since, idle = self._epoll, self._takers, 0, self.idle
        while not self._recovery.leaving:
            for fd, _ in epoll.poll(maxevents=1):
                if fd == self._entry.stop_fd:
                    break
                accepted = takers[fd]()
                if accepted is not None:
                    yield accepted
                    since += 1
                    if idle is not None and idle.due:
                        idle.between(self)
            if since >= self._leaks.round:
                since = 0
                self._after_a_round()
                self._stand_behind()
        self._leave()
        yield from self._drain()

    def _leave(self) -> None:
        """Wait no more. What has woken this worker may be somebody who waits, and nobody else was told."""
        self._epoll.close()
        if not HERE.foreign:
            self._entry.beckon()

    def _also(self, fd: int, take: Callable[[], Accepted | None]) -> None:
        """Wait for one more descriptor that all workers share."""
        pair = [fd, os.dup(fd)]
        self._epoll.register(fd, _EXCLUSIVE)
        self._pairs.append(pair)
        self._takers |= dict.fromkeys(pair, take)

    def _stand_behind(self) -> None:
        """Register anew, behind the siblings; the kernel looks then whether somebody waits."""
        self._register_anew(self._pairs)

    def _register_anew(self, pairs: Iterable[list[int]]) -> None:
        """First the new, then not the old: the kernel may have no room for it.

        Either step may have been made already, before an exception came.
        """
        for pair in pairs:
            before, after = pair
            try:
                self._epoll.register(after, _EXCLUSIVE)
            except FileExistsError:
                pass
            except OSError as error:
                if error.errno not in _NOT_NOW:
                    raise
                return  # what is registered stays so, if at a place that is not fair
            try:
                self._epoll.unregister(before)
            except FileNotFoundError:
                pass
            pair.reverse()

    def _taker(self, listener: socket.socket) -> Callable[[], Accepted | None]:
        """What accepts one connection if there still is one: a sibling may have been faster.

        Made once for each listener: to ask a socket object for its family and type costs as much as a system call.
        """
        accept = raw_accept(listener)
        accepted = iter(accept, None)
        of_kind = numbers_of(listener)

        def take() -> Accepted | None:
            try:
                for self._raw in accepted:
                    break
            except OSError as error:
                self._own(error)
                return self._recover(error, listener, accept)
            raw = self._raw
            assert raw is not None  # accept gives a pair or raises
            made = self._made = allocate(new_socket)
            initialise(made, *of_kind, raw[0])
            return self._whole(made, raw)

        return take

    def _drain(self) -> Iterator[Accepted]:
        """After an order to leave: for DRAIN, whatever still waits on any listener."""
        for listener in self._sockets:
            take = self._taker(listener)
            while not self._recovery.sealed:
                accepted = take()
                if accepted is None:
                    break
                yield accepted


_EXCLUSIVE = select.EPOLLIN | select.EPOLLEXCLUSIVE

_NOT_NOW = {errno.ENOMEM, errno.ENOSPC, errno.EINTR}
"""What epoll_ctl(2) fails with when the kernel has no memory for one more registration, the user has too many, or a
signal comes while a supervisor of system calls is being asked (seccomp_unotify(2))."""
