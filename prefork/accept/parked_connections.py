"""A worker's parked connections: those that are kept and on which nothing is in hand.

They stand in an epoll of their own, level-triggered, in which a connection stays as long as it is kept here, also while
it is in hand: nobody looks meanwhile, so a kept request costs no epoll_ctl(2). Only where somebody does look, because
the main thread is stuck (`prefork.accept.parking_thread`), the one in hand is taken out until it is parked again.

All have the same time, so who was parked first is due first: the order of arrival is kept, and the front is looked at.

A new connection is none of these before its handler asks for it to be kept: who closes costs what he costs without.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, takewhile
from typing import Any, Final

from prefork.config.keepalive import Keepalive
from prefork.net.lingering import ours
from prefork.net.proxy_protocol import ProxyHeader
from prefork.scoreboard.layout import EVICTED, EXPIRED, HANDED_OVER, LEFT, PARKED, REUSED
from prefork.system.limits import nofile
from prefork.system.natives import select, socket, time

AT_ONCE: Final = 16
"""Connections that speak, taken in one look: then others have their turn."""

STATE: Final = 1 << 16
"""Bytes of state that a connection may have, so that it can be passed on."""

_SHARE: Final = 2  # of the descriptors that a worker may have, one part may be parked
_PEEK: Final = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)
_TOGETHER: Final = 1.0  # seconds
_EVICTED: Final = 16  # connections closed at once for want of descriptors
READ: Final = int(select.EPOLLIN | select.EPOLLRDHUP)
"""What is waited for on each of them."""

SPEAKS: Final = int(select.EPOLLIN)
"""The event of a connection that speaks, and does no more."""


class ParkedConnection:
    """One connection that is kept.

    Attributes:
        connection: the socket.
        address: the peer's, as accept(2) gave it, or as a proxy has told it.
        fd: its descriptor, for as long as it is kept here.
        requests: how many it has brought so far (count).
        since: when it was parked (monotonic seconds).
        state: what the handler wants to know when it has it again.
        ready: whether the handler wants it again though nothing more may come.
        local: what the handler has of it in this process.
        bound: whether it can't leave this process; ``local`` is what closes it then.
        seen: when its client was there, had ended nothing and not spoken yet (monotonic seconds); 0 when that is not
            known.
        serving: with several lanes, whether it is somebody's: in hand, or to be at once.
        watched: whether it is in the epoll.
        proxy: what a proxy has said of it, before its first request; None where nothing was read.
    """

    __slots__ = (
        "address",
        "bound",
        "connection",
        "fd",
        "local",
        "proxy",
        "ready",
        "requests",
        "seen",
        "serving",
        "since",
        "state",
        "watched",
    )

    def __init__(self, connection: socket.socket, address: Any, requests: int = 0, state: bytes = b"") -> None:
        self.connection = connection
        self.address = address
        self.fd = connection.fileno()
        self.requests = requests
        self.state = state
        self.since = self.seen = 0.0
        self.local: Any = None
        self.proxy: ProxyHeader | None = None
        self.bound = self.ready = self.serving = self.watched = False

    @property
    def closed(self) -> bool:
        """Whether it was closed by whoever had it in hand; its number may be another descriptor's by now."""
        return self.connection.fileno() != self.fd


class _Kept(socket.socket):
    """In place of a connection that is the parking's when its handler has returned: to close it costs nothing."""

    def close(self) -> None:
        """Nothing."""


KEPT: Final = _Kept.__new__(_Kept)  # with no descriptor
"""What a handle returns when the connection that it was given is not to be closed; to be closed in its place."""


NEW: Final = ParkedConnection(KEPT, None)
"""What a handler has in hand while its connection was never parked: it says what is true of all these."""


class ParkedConnections:
    """The parked connections of one worker. Used by its main thread; by the parking thread while that is stuck.

    Args:
        settings: keepalive in seconds, keepalive_requests and max_parked as counts.
        words: the worker's entry of the scoreboard.

    Attributes:
        closing: whether none is kept any more: who speaks is answered for the last time.
        headers: what proxies have said of connections, by their descriptors.
        in_hand: the one that is being served, or is to be at once; `NEW` for one that was not parked yet.
        members: all of them, the one in hand included, the oldest first.
        most: how many it may be (count).
        turn: those that are ready by themselves.

    Raises:
        OSError: no descriptor for the epoll.
    """

    def __init__(self, settings: Keepalive, words: memoryview[int]) -> None:
        self.closing = False
        self.headers: dict[int, ProxyHeader] = {}
        self.in_hand: ParkedConnection | None = None
        self.members: OrderedDict[int, ParkedConnection] = OrderedDict()
        self.turn: OrderedDict[int, ParkedConnection] = OrderedDict()
        self.seconds = settings.keepalive
        self._requests = settings.keepalive_requests
        self._max_parked = settings.max_parked
        self.most = self._limit()
        self._again = self._ghosts = False
        self._due = 0.0
        self._epoll = select.epoll(flags=select.EPOLL_CLOEXEC)
        self.look: Callable[[float, int], list[tuple[int, int]]] = self._epoll.poll
        self.words = words
        self._reused = self._expired = self._evicted = self._handed_over = self._left = 0

    def __len__(self) -> int:
        return len(self.members)

    def fileno(self) -> int:
        """The epoll's descriptor; readable while one of them speaks."""
        return self._epoll.fileno()

    # What the handler asks for.

    def park(
        self,
        connection: socket.socket,
        address: Any,
        state: bytes,
        *,
        ready: bool,
        local: object = None,
        bound: bool = False,
    ) -> bool:
        """Keep the connection in hand, of which this is not the `last` request, when its handler returns.

        Returns:
            Whether that can be done.
        """
        one = self.in_hand
        if one is None or connection.fileno() < 0 or len(state) > STATE:
            return False
        if one is NEW:
            one = self.in_hand = ParkedConnection(connection, address)
            one.proxy = self.headers.get(one.fd)
        elif one.connection is not connection:
            one.connection, one.address, one.fd = connection, address, connection.fileno()
        one.state, one.ready, one.local, one.bound, self._again = state, ready, local, bound, True
        return True

    def last(self) -> bool:
        """Whether the request in hand is the last of its connection, as far as can be told now."""
        one = self.in_hand
        return self.closing or one is None or one.requests + 1 >= self._requests

    def as_new(self, one: ParkedConnection) -> ParkedConnection:
        """The one in hand, which has brought nothing so far, is to its handler as if it had just been accepted."""
        self.forget(one)
        self.in_hand = NEW
        return NEW

    def unasked(self) -> None:
        """What has been parked since :meth:`over` has asked for nothing yet: this is not counted as a request of it."""
        one = self.in_hand
        if one is not None and one is not NEW:
            self._reused -= one.requests != 1  # which `over` adds again
            one.requests -= 1

    # What the loop asks for.

    def over(self, given: socket.socket, *, failed: bool) -> bool:
        """The handler has returned: park the connection in hand if it has asked for that.

        Args:
            given: what the handler was given; another object may have taken its place, as under TLS.
            failed: whether it has raised.

        Returns:
            Whether it is kept. If not, it is forgotten, and ``given`` is for the caller to close.
        """
        one, again = self.in_hand, self._again
        self.in_hand = None
        if one is NEW or one is None:
            return False
        self._again = False
        if one.requests:
            self._reused = self.words[REUSED] = self._reused + 1
        one.requests += 1
        try:
            if again and not failed and self.admit(one):
                return True
        except BaseException:  # the application has had it raised here
            self.forget(one)
            raise
        self.forget(one)
        if one.connection is not given:
            one.connection.close()
        return False

    def admit(self, one: ParkedConnection) -> bool:
        """Park a connection; False when the kernel has no room for it, or it is closed: it is to be closed."""
        fd, members = one.fd, self.members
        if not one.watched:
            if one.closed:
                self.forget(one)
                return False
            if len(members) >= self.most and fd not in members:
                # The limit of descriptors may be another one by now: a worker's is its master's of that moment.
                self.most = self._limit()
                if len(members) >= self.most:
                    self.evict(len(members) - self.most + 1)
            while not _watch(self._epoll, fd):
                if not self.evict(1):
                    self.forget(one)
                    return False
            one.watched = True
            members[fd] = one
            self.words[PARKED] = len(members)
        members.move_to_end(fd)
        if one.ready:
            self.turn[fd] = one
        one.since = time.monotonic()
        return True

    def _limit(self) -> int:
        return self._max_parked or max(1, nofile() // _SHARE)

    def look_away(self, one: ParkedConnection) -> None:
        """Wait no more for this one, until it is parked again."""
        if one.watched:
            one.watched = False
            if self.members.get(one.fd) is not one:
                self._ghosts = True  # whoever has it in hand has closed it, and another is parked under its number
                return
            try:
                # Its close does not do that while another process has a copy of it (epoll(7)).
                self._epoll.unregister(one.fd)
            except OSError:
                self._ghosts = True  # closed likewise

    def gone(self, one: ParkedConnection) -> bool:
        """Its client has ended its side, at the least: if there is nothing before that, it is closed; whether it is."""
        one.seen = 0.0
        if one.ready or one.bound:
            return False
        try:
            if one.connection.recv(1, _PEEK):
                return False
        except BlockingIOError:
            return False
        except OSError:
            pass  # it was reset
        self._left = self.words[LEFT] = self._left + 1
        self.forget(one)
        one.connection.close()
        return True

    def forget(self, one: ParkedConnection) -> None:
        """Keep a connection no more. Nothing is done to it itself."""
        self.look_away(one)
        if self.members.get(one.fd) is one:
            del self.members[one.fd]
            self.turn.pop(one.fd, None)
            self.words[PARKED] = len(self.members)

    def close(self, one: ParkedConnection) -> None:
        """End one that is silent, so that a request that is under way is no reason for a reset."""
        self.forget(one)
        if one.bound:
            one.local.close()  # a channel under TLS, which has to say goodbye
        else:
            ours.take(one.connection)

    def stranger(self, fd: int) -> None:
        """The epoll tells, or had told before it was passed on, of a descriptor that is none of these."""
        try:
            self._epoll.unregister(fd)
        except OSError:
            if self._ghosts:
                # One was closed before it was forgotten, and if another process has a copy of it, it is told of for as
                # long: nothing but a new epoll gets rid of it.
                self._renew()

    def _renew(self) -> None:
        made = select.epoll(flags=select.EPOLL_CLOEXEC)
        lost = [one for one in self.members.values() if one.watched and not _watch(made, one.fd)]
        old, self._epoll, self._ghosts = self._epoll, made, False
        self.look = made.poll
        self.moved(old.fileno(), made.fileno())
        old.close()
        for one in lost:
            one.watched = False
            self.close(one)

    moved: Callable[[int, int], object] = staticmethod(lambda *_: None)
    """Told that another epoll is waited for in place of the first."""

    # Ends.

    def expire(self) -> float | None:
        """Close those whose time is over, but for who has spoken by now: he waits to be served.

        Returns:
            Seconds until the next is due, with some to spare so that those who came one after another are closed
            together; None when there is none.
        """
        if not self.members:
            self._due = 0.0
            return None
        now = time.monotonic()
        if now < self._due:
            return self._due - now
        old = now - self.seconds
        due = list(takewhile(lambda one: one.since <= old, self._idle()))
        for one in self._silent(due):
            self._expired = self.words[EXPIRED] = self._expired + 1
            self.close(one)
        for one in self._idle():
            self._due = max(now + _TOGETHER, one.since + self.seconds)
            return self._due - now
        self._due = 0.0
        return None

    def _idle(self) -> Iterator[ParkedConnection]:
        """Those that are not in hand, the oldest first."""
        return (one for one in self.members.values() if one is not self.in_hand)

    def _silent(self, some: Iterable[ParkedConnection]) -> Iterator[ParkedConnection]:
        """Those of them who have not spoken, and are not ready by themselves either."""
        speak = {fd for fd, _ in self.look(0, len(self.members))} if some and self.members else ()
        return (one for one in some if not one.ready and one.fd not in speak)

    def evict(self, count: int = 0) -> bool:
        """Close some of the oldest that are silent, for want of descriptors or of room; whether there were some."""
        found = list(islice(self._silent(self._idle()), count or _EVICTED))
        for one in found:
            self._evicted = self.words[EVICTED] = self._evicted + 1
            self.forget(one)
            if one.bound:
                one.local.close()  # as above
            else:
                one.connection.close()
        return bool(found)

    def handed_over(self, some: Sequence[ParkedConnection]) -> None:
        """These have been given to somebody else."""
        for one in some:
            self.forget(one)
            one.connection.close()
        self._handed_over = self.words[HANDED_OVER] = self._handed_over + len(some)

    def abandon(self) -> None:
        """An exception has come while one was served: it is closed, since nobody knows how far it has come."""
        one, self.in_hand, self._again = self.in_hand, None, False
        if one is not None and one is not NEW:
            self.forget(one)
            one.connection.close()

    def begin_anew(self) -> None:
        """Those who were ready are: an exception may have ended who served them."""
        self._again = False
        for fd, one in self.members.items():
            if one.ready:
                self.turn[fd] = one

    def part(self) -> None:
        """In a process that the application has forked: have none of them but the one in hand."""
        for one in [*self.members.values()]:
            if one is not self.in_hand:
                one.connection.close()
        self.members.clear()
        self.turn.clear()
        self._epoll.close()  # and nothing is taken out of it: the parent shares it
        self.closing = True


def _watch(epoll: select.epoll, fd: int) -> bool:
    """Put a connection into an epoll; False when the kernel has no room for it, or it is closed."""
    while True:
        try:
            epoll.register(fd, READ)
        except InterruptedError:
            continue  # a signal came while a supervisor of system calls was asked (seccomp_unotify(2))
        except OSError:
            return False
        return True
