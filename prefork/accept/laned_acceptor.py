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

from prefork.accept.acceptor import Accepted, Acceptor, Exclusive
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

_LOOK: Final = 0.05  # seconds between two looks at whether lanes have finished, while a worker leaves


class ForLanes(Acceptor):
    """What both have in common.

    Attributes:
        exhausted: whether a handler has met the limit of descriptors, which the next leader sees to.
    """

    exhausted = False
    _lead: Lead

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


class LanedAcceptor(ForLanes, Exclusive):
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
        epoll, takers, since, one_round = self._epoll, self._takers, 0, self._leaks.round
        while not self._recovery.leaving:
            self._between()
            if not self._lead.may_wait():
                yield NOTHING
                continue
            for fd, _ in epoll.poll(maxevents=1):
                taker = takers.get(fd)
                if taker is None:  # there is an order to leave
                    break
                beside = self._lead.in_hand
                if beside and not self._lead.may_wait():
                    self._entry.beckon()
                    yield NOTHING
                    break
                accepted = taker()
                if accepted is not None:
                    since += 1
                    if beside:
                        self._stand_behind()  # so that all who have something in hand already have the same share
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

    def _serve(self) -> Iterator[Accepted]:
        parking, epoll, lead, nobody = self.laned, self._epoll, self._lead, self._nobody
        takers, since, one_round = self._takers, 0, self._leaks.round
        while not self._recovery.leaving:
            self._admit()
            now = time.monotonic()
            spoke = parking.look_for_speakers(self._silent)
            for one in parking.speakers():
                spoke = True
                since += 1
                yield nobody, one.address
            self._silent = now
            self._between()
            if not lead.may_wait():
                yield NOTHING
                continue
            waits = not (spoke or parking.turn)
            found = epoll.poll(parking.expire() if waits else 0, 1)
            if waits:
                self._silent = time.monotonic()
            for fd, _ in found:
                taker = takers.get(fd)
                if taker is None:  # a parked one speaks, or there is an order to leave
                    continue
                if lead.in_hand and not lead.may_wait():
                    self._entry.beckon()
                    yield NOTHING
                    continue
                accepted = taker()
                if accepted is not None:
                    parking.in_hand = ParkedConnection(*accepted)
                    since += 1
                    self._stand_behind()
                    yield nobody, accepted[1]
            if since >= one_round:
                since = 0
                parking.expire()
                self._share()
                self._after_a_round()

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
        end = time.monotonic() + self._patience
        while True:
            others = lead.in_hand  # before a look at what they have parked
            self._admit()
            closed = self._fate is Fate.CLOSED
            parking.closing = parking.closing or closed or not others
            passed = closed or self._pass_all()
            if others:
                end = time.monotonic() + self._patience
            passing = self._others_pass()
            if not others and passed and not (passing or parking.members):
                break
            left = max(0.0, end - time.monotonic())
            more = (others and not closed) or not passed  # what has to be passed on
            seconds = _LOOK if more else min(left, _LOOK) if others or passing else left
            hurried = self._entry.obeyed is Order.QUIT
            yield from self._hear(0.0 if hurried else seconds)
            if hurried or not (left or more):
                break
        parking.ended = True
        for one in [*parking.members.values()]:
            if not one.serving:
                parking.close(one)

    def _pass_all(self) -> bool:
        """Pass all on that can be and are nobody's; False when there is no room for more now."""
        parking = self.laned
        while free := parking.free(max(1, min(AT_ONCE, len(parking) // self._workers))):
            if not self._pass(free):
                return False
        return True

    def _hear(self, seconds: float) -> Iterator[Accepted]:
        """Wait until somebody speaks, here or among what was passed on, and serve him."""
        parking, queue = self.laned, self._queue.outward.fileno()
        closed = self._fate is Fate.CLOSED
        self._admit()
        if not parking.turn:
            readable(parking.fileno(), *([queue] if closed else []), seconds=seconds)
        if closed:
            self._take_back()
            self._admit()
        parking.look_for_speakers()
        for one in parking.speakers():
            yield self._nobody, one.address
