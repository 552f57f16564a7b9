"""How a worker accepts that keeps connections: it waits for all that may bring it work in one epoll.

That is the way of several listeners (`prefork.accept.acceptor.Exclusive`), with two more things to wait for: an epoll
with its parked connections, and the return queue, through which others pass it theirs. While its own have something to
say, they are asked first, `AT_ONCE` of them; then it looks once at all the rest, without waiting. So who is kept costs
a part of a system call, and who is new does not wait for long. And where none are kept and somebody was there before it
looked, it accepts on without a look, as a blocking accept would, for `IN_A_GO`: clients who close pay for no epoll.

The end of a worker is not the end of its connections. On an order to leave they go through the return queue, to
siblings, or to the successor of the whole server; only where nobody comes after us they are waited for, so that who
speaks within ``keepalive_min_timeout`` is answered for the last time, and then closed.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Generator, Iterator
from itertools import islice
from typing import Final

from prefork.accept.acceptor import Accepted, Exclusive
from prefork.accept.parked_connections import AT_ONCE, NEW, SPEAKS, ParkedConnection, ParkedConnections
from prefork.accept.parking_thread import ParkingThread
from prefork.accept.raw_socket import Accept
from prefork.accept.return_queue import AT_ONCE as IN_A_MESSAGE
from prefork.accept.return_queue import ReturnQueue
from prefork.accept.worker_context import WorkerContext
from prefork.scoreboard.layout import Fate, Order
from prefork.system.descriptors import held, readable
from prefork.system.forks import HERE
from prefork.system.limits import nofile, nofile_limits, room_for
from prefork.system.natives import select, socket, time

IN_A_GO: Final = 0.001
"""Seconds for which one listener is accepted from without a look at all the rest."""

_FOR_WANT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_UNEVEN: Final = 3  # as a shift: an eighth more than a sibling is not worth a passage
_SHARING: Final = 0.02  # seconds between two looks at what siblings keep: there may be a thousand
_LOOK: Final = 0.05  # seconds between two looks at whether there is room in the return queue
_AT_HAND: Final = 2e-5  # seconds that a look takes at the most which finds what was there before it


class KeepaliveAcceptor(Exclusive):
    """One listener or several, all non-blocking, and connections that are kept.

    Args:
        given: as for `Exclusive`.
        queue: the return queue.

    Attributes:
        parking: the parked connections.
        parking_thread: what looks after the parked ones while this thread is stuck.

    Raises:
        OSError: no descriptor for what it needs.
    """

    def __init__(self, given: WorkerContext, queue: ReturnQueue) -> None:
        super().__init__(given)
        self._parking = self.parking = parking = self._made_parking(given)
        given.leaks.parked = parking
        given.offspring.parted.append(parking.part)
        self._queue = queue
        self.parking_thread = ParkingThread(parking, self.pass_on, lambda: self._entry.idle_beside)
        self._patience = given.settings.keepalive_min_timeout
        self._workers = given.workers
        self._back: list[ParkedConnection] = []  # taken out of the queue, and not served yet
        self._over = False
        self._shared = 0.0
        self._silent = 0.0
        """Until when nobody had spoken who speaks now, as far as it is known (monotonic seconds)."""
        self._also(queue.outward.fileno(), self._take_one)
        self._epoll.register(parking.fileno(), select.EPOLLIN)
        parking.moved = self._follow

    def _made_parking(self, given: WorkerContext) -> ParkedConnections:
        return ParkedConnections(given.settings, given.entry.words)

    def connections(self) -> Iterator[Accepted]:
        """As `Acceptor.connections`; `ParkedConnections.in_hand` is what is to be served, if that was parked."""
        parking = self._parking
        self.parking_thread.began = 0  # where an exception has come before its handle could say that it has ended
        if self.parking_thread.active:
            self.parking_thread.stand_down()
        parking.begin_anew()
        left = self._left()
        if left is not None:
            yield left
        elif parking.in_hand is not None and parking.in_hand is not NEW:
            yield parking.in_hand.connection, parking.in_hand.address
        if not self._over:
            yield from self._serve()
            self._over = True
            self._leave()
        yield from self._drain()
        yield from self._take_leave()
        self.parking_thread.end()

    def _serve(self) -> Iterator[Accepted]:
        parking, epoll, recovery = self._parking, self._epoll, self._recovery
        members, turn, one_round = parking.members, parking.turn, self._leaks.round
        takers, since = self._takers, 0
        while not recovery.leaving:
            self._admit()
            now, spoke = time.monotonic(), parking.look(0, AT_ONCE) if members else ()
            for fd, events in spoke:
                one = members.get(fd)
                if one is None:
                    parking.stranger(fd)
                    continue
                if events == SPEAKS:
                    one.seen = self._silent
                elif parking.gone(one):
                    continue
                parking.in_hand = one
                yield one.connection, one.address
                since += 1
            if turn:
                yield from self._take_turns()
            self._silent = now
            for fd, _ in epoll.poll(0, 1) if spoke or turn else self._sleep():
                taker = takers.get(fd)
                if taker is not None:  # else a parked one speaks, or there is an order to leave
                    since += yield from self._take(taker, now + IN_A_GO if self._silent - now < _AT_HAND else 0.0)
            if since >= one_round:
                since = 0
                parking.expire()
                self._share()
                self._after_a_round()
                self._stand_behind()
                self._between()

    def _take(self, taker: Callable[[], Accepted | None], until: float) -> Generator[Accepted, None, int]:
        """Serve who comes from one listener: one, or more while none is kept; returns how much of a round that is."""
        members, count = self._parking.members, 0
        before = len(members)  # not in the loop: there is no moment between accept and yield
        while (accepted := taker()) is not None:
            yield accepted
            count += self._leaks.round if len(members) > before else 1  # who keeps one leaves the next to a sibling
            if members or time.monotonic() > until or self._recovery.leaving:
                break
        return count

    def _sleep(self) -> list[tuple[int, int]]:
        """Wait until there is something to do. Whatever ends the sleep has just come."""
        self._between()
        found = self._epoll.poll(self._parking.expire(), 1)
        self._silent = time.monotonic()
        return found

    def _between(self) -> None:
        """Nothing is in hand."""
        idle = self.idle
        if idle is not None and idle.due:
            idle.between(self)

    def _take_turns(self) -> Iterator[Accepted]:
        """Serve those who are ready by themselves, each once."""
        parking = self._parking
        for one in [*parking.turn.values()]:
            if parking.turn.pop(one.fd, None) is one:
                parking.in_hand = one
                yield one.connection, one.address

    def _follow(self, old: int, new: int) -> None:
        if not self._over:
            self._epoll.unregister(old)
            self._epoll.register(new, select.EPOLLIN)

    # What the return queue brings.

    def _take_one(self) -> None:
        """Take what somebody has passed on, and leave the next to a sibling."""
        if not self._take_back():
            self._wait_for(_LOOK)  # the queue holds it, and would wake us at once
        self._stand_behind()

    def _take_back(self) -> bool:
        """Take what somebody has passed on; False when there are no descriptors for it, nor can be had.

        What recvmsg(2) finds no descriptors for is closed (unix(7), MSG_CTRUNC), so they are counted before.
        """
        while (missing := self._missing()) > 0:
            if not self._parking.evict(missing):
                return self._take_beyond(missing)
        self._back += self._queue.take() or ()
        return True

    def _take_beyond(self, missing: int) -> bool:
        """Take what somebody has passed on, though the soft limit has no room for a whole message of it.

        Those who are in it may speak, and nobody else may have more room. False where the hard limit has none either.
        """
        soft, hard = nofile_limits()
        if hard - soft < missing:
            return False
        with room_for(soft - 1 + missing):
            self._back += self._queue.take() or ()
        return True

    @staticmethod
    def _missing() -> int:
        """How many descriptors are missing for a whole message (count)."""
        try:
            return IN_A_MESSAGE - nofile() + held()
        except OSError as error:
            return IN_A_MESSAGE if error.errno in _FOR_WANT else 0  # without /proc nobody can say

    def _admit(self) -> None:
        """Park what was taken out of the return queue."""
        while self._back:
            self._silent = 0.0  # they may have spoken before they came
            one = self._back[-1]
            if not self._parking.admit(one):
                one.connection.close()
            self._back.pop()

    def _share(self) -> None:
        """Pass one connection on where an idle sibling keeps clearly fewer.

        Who accepts them all at once, or was there first, would serve them for as long as they are kept. It is the one
        that was served last, since those who ask often are what makes the difference.
        """
        now = time.monotonic()
        if now < self._shared + _SHARING:
            return
        self._shared = now
        kept = len(self._parking)
        if kept <= 1:
            return
        fewest = self._entry.fewest_parked_beside
        if fewest is not None and kept - fewest > max(1, kept >> _UNEVEN):
            self._pass_one()

    def _pass_one(self) -> None:
        """Pass the one on that was served last, if that can be and it is silent."""
        one = next(reversed(self._parking.members.values()))
        if not (one.bound or one.ready or readable(one.fd)):
            self._hand_over([one])

    # Want of descriptors.

    def _recover(self, error: OSError, listener: socket.socket, accept: Accept) -> Accepted | None:
        """As `Acceptor._recover`, but the oldest parked connections go first."""
        if error.errno in _FOR_WANT and self._parking.evict():
            try:
                self._attempt(accept)
            except OSError as again:
                self._own(again)
                error = again
            else:
                return self._left()
        return super()._recover(error, listener, accept)

    def _attempt(self, accept: Accept) -> None:
        """As `Acceptor._attempt`; those go first that have been parked since, for other lanes go on meanwhile."""
        while True:
            try:
                super()._attempt(accept)
            except OSError as error:
                if self._raw is not None or error.errno not in _FOR_WANT or not self._parking.evict():
                    raise
            else:
                return

    def handler_exhausted(self) -> None:
        """A handler has met the limit of descriptors."""
        if not self._parking.evict():
            super().handler_exhausted()

    def _wait_for(self, seconds: float | None, *descriptors: int) -> None:
        """As `Acceptor._wait_for`; those who speak meanwhile are passed on."""
        end = None if seconds is None else time.monotonic() + seconds
        while self._parking.members and not self._recovery.sealed:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                return
            stop = () if self._recovery.leaving else (self._entry.stop_fd,)
            readable(*descriptors, *stop, self._parking.fileno(), seconds=left)
            if not readable(self._parking.fileno()):
                return
            if not self.pass_on(self._speaking()):
                break
        super()._wait_for(None if end is None else end - time.monotonic(), *descriptors)

    def withdraw(self) -> None:
        """Give the parked connections to siblings, as far as there is room for them."""
        parking, room = self._parking, self._entry.room_beside(self._parking.most)
        while room > 0:
            free = islice((one for one in parking.members.values() if not one.bound), min(AT_ONCE, room))
            passed = self._hand_over(list(free))
            if not passed:
                return
            room -= passed

    def _speaking(self) -> list[ParkedConnection]:
        """Those that speak, and can be passed on."""
        found = [self._parking.members.get(fd) for fd, _ in self._parking.look(0, AT_ONCE)]
        return [one for one in found if one is not None and not one.bound]

    # The end.

    def pass_on(self, some: list[ParkedConnection]) -> int:
        """Put those that speak into the return queue, each by itself, so that all who are idle share them; how many."""
        for count, one in enumerate(some):
            if not self._hand_over([one]):
                return count
        return len(some)

    def _hand_over(self, some: list[ParkedConnection]) -> int:
        """Put parked connections into the return queue, for one worker; how many of them are off our hands."""
        found = [one for one in some if not one.closed]
        if len(found) < len(some):  # a handler has closed what it had asked us to keep
            for one in some:
                if one.closed:
                    self._parking.close(one)
        try:
            count = self._queue.put(found) if found else 0
        except OSError as error:
            self._log.error("connections can't be passed on: %s", error)
            return 0
        self._parking.handed_over(found[:count])
        return len(some) if count == len(found) else some.index(found[count])

    @property
    def _fate(self) -> Fate:
        """What becomes of the parked connections of a worker that leaves now."""
        return Fate.CLOSED if self._entry.orphaned else self._entry.board.fate

    def _take_leave(self) -> Iterator[Accepted]:
        """The end of what is kept here: it is passed on, or has its last word."""
        parking = self._parking
        if HERE.foreign:
            return
        end = time.monotonic() + self._patience
        while self._fate is not Fate.CLOSED:
            self._admit()
            share = max(1, min(AT_ONCE, len(parking) // self._workers))
            free = list(islice((one for one in parking.members.values() if not one.bound), share))
            if not free:
                break
            if not self._hand_over(free):
                yield from self._hear(_LOOK)
        self._admit()
        parking.closing = True
        while (others := self._others_pass()) or parking.members:
            quick = self._entry.obeyed is Order.QUIT
            left = 0.0 if quick else max(0.0, end - time.monotonic())
            yield from self._hear(min(left, _LOOK) if others else left)
            if not left:
                break
        for one in [*parking.members.values()]:
            parking.close(one)

    def _others_pass(self) -> bool:
        """Whether connections have come through the return queue, or may, since a sibling is with one of its own."""
        waits = self._fate is Fate.CLOSED
        return waits and (self._entry.busy_beside or bool(readable(self._queue.outward.fileno())))

    def _hear(self, seconds: float) -> Iterator[Accepted]:
        """Wait until somebody speaks, here or among what was passed on, and serve him."""
        parking, queue = self._parking, self._queue.outward.fileno()
        closed = self._fate is Fate.CLOSED
        self._admit()
        yield from self._take_turns()
        if not parking.members and not closed:
            return
        readable(parking.fileno(), *([queue] if closed else []), seconds=seconds)
        if closed:
            self._take_back()
            self._admit()
            yield from self._take_turns()
        for fd, events in parking.look(0, AT_ONCE):
            one = parking.members.get(fd)
            if one is None:
                parking.stranger(fd)
                continue
            if events != SPEAKS and parking.gone(one):
                continue
            parking.in_hand = one
            yield one.connection, one.address
