"""How a worker with several lanes accepts: as one that waits in an epoll, whose way is gone by whoever has the lead.

Each step of the generator is made by one lane, which has the lead (`prefork.accept.lead`), and what it yields is that
lane's. Instead of a connection it may yield `NOTHING`: then another process is to have what comes, and this one stands
by. That is asked before each wait, and again by who was woken: he has had the only wake-up there is, and passes it on.

The listener is never blocked in, not even a single one: a lane that must not take the next connection could not be had
out of accept(2) again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, cast

from prefork.accept.acceptor import Accepted, Exclusive
from prefork.accept.keepalive_acceptor import KeepaliveAcceptor
from prefork.accept.laned_parking import LanedParking
from prefork.accept.lead import Lead
from prefork.accept.parked_connections import AT_ONCE, ParkedConnection, ParkedConnections
from prefork.accept.return_queue import ReturnQueue
from prefork.accept.worker_context import WorkerContext
from prefork.scoreboard.layout import Fate, Order
from prefork.system.descriptors import readable
from prefork.system.forks import HERE
from prefork.system.natives import time

NOTHING: Final = cast("Accepted", (None, None))
"""In place of a connection: there is none for this process now."""

JUST_NOW: Final = 0.001
"""Seconds for which a look at who speaks on a parked connection holds: who has spoken since has not waited for long."""

_LOOK: Final = 0.05  # seconds between two looks at whether lanes have finished, while a worker leaves


class ForLanes(Exclusive):
    """What both have in common.

    Attributes:
        exhausted: whether a handler has met the limit of descriptors, which the next leader sees to.
    """

    exhausted = False
    _lead: Lead
    _behind = False  # whether the next new connection is to be another process's, as long as that has not more of them

    def waiting(self) -> bool:
        """MAIN THREAD. Whether somebody waits to be accepted."""
        return any(readable(listener.fileno()) for listener in self._sockets)

    def _between(self) -> None:
        """A lane is about to wait: see to what is to be done between two connections."""
        if self.exhausted:
            self.exhausted = False
            self.handler_exhausted()
        if self.idle is not None and self.idle.due:
            beside = bool(self._lead.in_hand)
            if not beside:
                self._lead.hide()
            self.idle.between(self, beside=beside)

    def _wait_for(self, seconds: float | None, *descriptors: int) -> None:
        self._lead.hide()
        super()._wait_for(seconds, *descriptors)

    def _taken_from(self, fd: int) -> Accepted | None:
        """What a descriptor gives that this process waits for; or `NOTHING`, for another one is to have it."""
        taker = self._takers.get(fd)
        if taker is None:  # a parked one speaks, or there is an order to leave
            return None
        beside = bool(self._lead.in_hand)
        if beside and not self._lead.may_wait():
            self._entry.beckon()
            return NOTHING
        self._behind = self._behind or beside
        return taker()

    def _leave_the_next(self) -> None:
        """Stand behind the others for new connections, so that all who have something in hand have the same share."""
        self._behind = False
        self._register_anew(self._pairs[: len(self._sockets)])


class LanedAcceptor(ForLanes):
    """One listener or several, all non-blocking, for the lanes of one worker.

    Args:
        given: as for `Exclusive`.
        lead: who has the lead.

    Raises:
        OSError: no descriptor for what it needs.
    """

    def __init__(self, given: WorkerContext, lead: Lead) -> None:
        super().__init__(given)
        self._lead = lead

    def connections(self) -> Iterator[Accepted]:
        """As `Acceptor.connections`, or `NOTHING`."""
        left = self._left()
        if left is not None:
            yield left
        epoll, since, one_round = self._epoll, 0, self._leaks.round
        while not self._recovery.leaving:
            self._between()
            if not self._lead.may_wait():
                yield NOTHING
                continue
            if self._behind:
                self._leave_the_next()
            for fd, _ in epoll.poll(maxevents=1):
                accepted = self._taken_from(fd)
                if accepted is not None:
                    since += accepted is not NOTHING
                    yield accepted
            if since >= one_round:
                since = 0
                self._after_a_round()
                self._stand_behind()
        self._leave()
        yield from self._drain()

    def _leave(self) -> None:
        self._lead.hide()
        super()._leave()


class LanedKeepaliveAcceptor(ForLanes, KeepaliveAcceptor):
    """The same where connections are kept.

    Args:
        given: as for `Exclusive`.
        queue: the return queue.
        lead: who has the lead.

    Raises:
        OSError: no descriptor for what it needs.
    """

    def __init__(self, given: WorkerContext, queue: ReturnQueue, lead: Lead) -> None:
        super().__init__(given, queue)
        self._lead = lead
        self.parking_thread.end()  # the main thread does that

    def _made_parking(self, given: WorkerContext) -> ParkedConnections:
        self.laned = LanedParking(given.settings, given.entry.words)
        return self.laned

    def waiting(self) -> bool:
        """As `ForLanes.waiting`, or to be taken out of the return queue."""
        return super().waiting() or readable(self._queue.outward.fileno())

    def _serve(self) -> Iterator[Accepted]:
        parking, since, one_round = self.laned, 0, self._leaks.round
        kept, looks = len(parking), True
        while not self._recovery.leaving:
            self._admit()
            now, spoke = time.monotonic(), False
            if looks or now - self._silent > JUST_NOW:
                looks, spoke = False, parking.look_for_speakers(self._silent)
                self._silent = now
            for one in parking.speakers():
                spoke = True
                since += 1
                yield one.connection, one.address
            self._between()
            if not self._lead.may_wait():
                yield NOTHING
                continue
            if self._behind or kept < len(parking):
                self._leave_the_next()
            kept = len(parking)
            for fd in self._events(spoke=spoke):
                accepted = self._taken_from(fd)
                looks = accepted is None
                if accepted is not None:
                    since += accepted is not NOTHING
                    yield accepted
            if since >= one_round:
                since = 0
                parking.expire()
                self._share()
                self._after_a_round()
                self._stand_behind()

    def _events(self, *, spoke: bool) -> list[int]:
        """Wait until there is something to do; if somebody has been served since the last look, only see what there is.

        Whatever ends the wait has just come, if the last look still holds when that begins.
        """
        parking = self.laned
        waits = not (parking.turn or (spoke and time.monotonic() - self._silent > JUST_NOW))
        found = self._epoll.poll(self._next_due() if waits else 0, 1)
        if waits:
            self._silent = time.monotonic()
        return [fd for fd, _ in found]

    def _next_due(self) -> float | None:
        """Seconds until a parked connection may be due; what another lane has in hand may be parked meanwhile."""
        seconds = self.laned.expire()
        if seconds is not None:
            return seconds
        # Asked for once more where nothing is in hand by now: it may just have been parked.
        return self.laned.seconds if self._lead.in_hand else self.laned.expire()

    def _pass_one(self) -> None:
        self._pass(self.laned.last_served())

    def withdraw(self) -> None:
        """As `KeepaliveAcceptor.withdraw`."""
        parking, room = self.laned, self._entry.room_beside(self.laned.most)
        while room > 0 and (passed := self._pass(parking.free(min(AT_ONCE, room)))):
            room -= passed

    def _pass(self, some: list[ParkedConnection]) -> int:
        """Put some that are ours into the return queue; how many. The others are nobody's again."""
        count = self._hand_over(some) if some else 0
        self.laned.release(some[count:])
        return count

    def _speaking(self) -> list[ParkedConnection]:
        return self.laned.take_speakers(AT_ONCE)

    def pass_on(self, some: list[ParkedConnection]) -> int:
        """As `KeepaliveAcceptor.pass_on`; the rest is found again by who looks next."""
        count = super().pass_on(some)
        self.laned.give_back(some[count:])
        return count

    # The end.

    def _take_leave(self) -> Iterator[Accepted]:
        """The end of what is kept here, and of what the other lanes still have in hand and may park."""
        parking, lead = self.laned, self._lead
        if HERE.foreign:
            return
        lead.hide()
        parking.leaving = True
        end = time.monotonic() + self._patience
        while True:
            others = lead.in_hand  # before a look at what they have parked
            self._admit()
            closed = self._fate is Fate.CLOSED
            parking.closing = parking.closing or closed or not others
            passed = closed or self._pass_all()
            parking.tell_who_is_left()
            if others:
                end = time.monotonic() + self._patience
            passing = self._others_pass()
            if not others and passed and not (passing or parking.members):
                break
            left = max(0.0, end - time.monotonic())
            more = (others and not closed) or not passed  # what has to be passed on
            seconds = _LOOK if more else min(left, _LOOK) if others or passing else left
            hurried = self._entry.obeyed is Order.QUIT
            yield from self._hear(0.0 if hurried else seconds, passes=passed and not closed)
            if hurried or not (left or more):
                break
        parking.end()

    def _pass_all(self) -> bool:
        """Pass all on that can be and are nobody's; False when there is no room for more now."""
        parking = self.laned
        while free := parking.free(max(1, min(AT_ONCE, len(parking) // self._workers))):
            if not self._pass(free):
                return False
        return True

    def _hear(self, seconds: float, *, passes: bool = False) -> Iterator[Accepted]:
        """Wait until somebody speaks, here or among what was passed on, and serve him.

        Args:
            seconds: how long at the most.
            passes: whether who can be passed on is: served here he could speak again at once, without an end.
        """
        parking, queue = self.laned, self._queue.outward.fileno()
        closed = self._fate is Fate.CLOSED
        self._admit()
        if not parking.turn:
            readable(parking.fileno(), *([queue] if closed else []), seconds=seconds)
        if closed:
            self._take_back()
            self._admit()
        parking.look_for_speakers()
        if passes:
            self.pass_on(parking.take_speakers(AT_ONCE))
        for one in parking.speakers():
            yield one.connection, one.address
