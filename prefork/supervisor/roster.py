"""The roster: the master's record of its workers, by slot and by pid. A pure registry, fed with facts.

A slot has at most one *incumbent* (who serves, or starts to), at most one *successor* (forked to take the incumbent's
place, not READY yet) and any number of *retiring* workers, who have been or are about to be told to leave:

    fact            empty slot            incumbent I                   incumbent I, successor S
    --------------  --------------------  ----------------------------  --------------------------------
    forked W        W is incumbent        W is successor                (never: the slot is full)
    ready W         -                     W == I: it serves             W == S: S is incumbent, I retires
    retired W       -                     I retires, slot empty         the one that is W retires
    exited W        -                     slot empty                    I gone: S is incumbent; S gone: I stays

When the incumbent is gone and whom it replaced has not been told to leave yet, that one is the incumbent again, and
still to be replaced.

Nothing here calls the system or reads a clock; times are monotonic seconds that the caller gives.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from typing import Literal

from prefork.scoreboard.layout import Order
from prefork.scoreboard.recorder import InHand
from prefork.supervisor.cause import Cause, Reason
from prefork.system.process import EXHAUSTED, Exit
from prefork.system.record import MutableRecord, Record, fresh

_RUN = Order.RUN

YOUNG = 1.0
"""Seconds: a worker that dies sooner after its boot, with nothing served, died young."""


class Member(MutableRecord):
    """One worker as the master knows it."""

    pid: int
    slot: int
    entry: int
    generation: int
    born: float
    ready_at: float | None = None
    order: Order = Order.RUN
    deadline: float | None = None
    """When a retiring worker is killed; None = it may take its time."""
    reason: Reason | None = None
    """Why it was told to leave, or is to be replaced."""
    wanted: bool = False
    """Whether a replacement has been asked for."""
    unsaid: bool = False
    """Whether the log has no room for what it asks, and so none for the end that comes of it."""
    turn: int = 0
    """Among those who have been asked for, whose replacement comes first: the lowest."""
    wake_ups: int = 0
    woken_at: float = 0.0
    slow_since: float | None = None
    """Since when it was busy with what was slow the last time; None = nothing was yet."""
    slow_at: float | None = None
    """When it was asked what it does so slowly; None = nobody waits for that."""
    dumped_at: float | None = None
    aborted_at: float | None = None
    aborts: int = 0
    abort_sent_at: float = 0.0
    questioned: bool = False
    """Whether it was asked what keeps it from its end."""
    killed_at: float | None = None

    @property
    def calm(self) -> bool:
        """Whether it serves, and nothing that it was asked for or told has a moment of its own."""
        return self.order is _RUN and self.dumped_at is None and self.slow_at is None and self.ready_at is not None

    @property
    def starting(self) -> bool:
        """Whether it has not said READY yet."""
        return self.ready_at is None


class Slot(MutableRecord):
    """A worker's stable place."""

    index: int
    incumbent: Member | None = None
    successor: Member | None = None
    retiring: list[Member] = fresh(factory=list)
    expected: bool = False
    """Whether somebody has been asked for a worker who is to live here, and has not been born."""
    young_deaths: int = 0
    """In a row; the respawn delay grows with it."""
    not_before: float = 0.0
    """No fork into this slot before that moment."""

    def members(self) -> Iterator[Member]:
        """Everybody who lives in this slot."""
        if self.incumbent is not None:
            yield self.incumbent
        if self.successor is not None:
            yield self.successor
        yield from self.retiring


class Death(Record):
    """The end of a worker, with what is needed to judge it."""

    member: Member
    exit: Exit
    at: float
    served: int
    successor: bool
    """Whether it was to replace somebody and had not become READY."""
    in_hand: tuple[InHand, ...] = ()
    """What it had in hand, one for each of its threads that accept; of an embedded server's, one for all."""

    @property
    def pid(self) -> int:
        """Whose end it is."""
        return self.member.pid

    @property
    def slot(self) -> int:
        """The slot that it was in."""
        return self.member.slot

    @property
    def generation(self) -> int:
        """The generation that it was of."""
        return self.member.generation

    @property
    def log(self) -> logging.Logger:
        """The server's logger, for hooks."""
        return logging.getLogger("prefork")

    @property
    def age(self) -> float:
        """Seconds since the fork."""
        return self.at - self.member.born

    @property
    def cause(self) -> Cause:
        """Why it ended."""
        member = self.member
        if member.order is not Order.RUN:
            evacuated = member.reason is not None and member.reason.cause is Cause.TIMEOUT
            if member.killed_at is not None and not evacuated:
                return Cause.GRACEFUL_TIMEOUT
            return Cause.OTHER if member.reason is None else member.reason.cause
        if member.starting:
            return Cause.BOOT
        if member.aborted_at is not None or member.killed_at is not None:
            return Cause.TIMEOUT
        return Cause.EXIT if self.exit.signal is None else Cause.CRASH

    @property
    def in_order(self) -> bool:
        """Whether it was told to leave, and did."""
        return self.member.order is not Order.RUN and self.exit.clean

    @property
    def unfinished(self) -> str:
        """What it had in hand when it ended, in words for a log line; "" for nothing."""
        return ", ".join(one.told(self.at) for one in self.in_hand)

    @property
    def unready(self) -> bool:
        """Whether it ended before READY, unasked."""
        return self.member.ready_at is None and self.member.order is Order.RUN

    @property
    def boot_failed(self) -> bool:
        """Whether it ended before READY by its own doing: an exit code, a crash, the boot deadline."""
        return self.unready and (self.exit.signal not in _FROM_OUTSIDE or self.member.aborted_at is not None)

    @property
    def boot_killed(self) -> bool:
        """Whether it ended before READY by a signal from outside: an operator's, or that of a kernel out of memory."""
        return self.unready and not self.boot_failed

    @property
    def exhausted(self) -> bool:
        """Whether its boot failed for want of descriptors or memory, which may be there in a moment."""
        return self.boot_failed and self.exit.code == EXHAUSTED

    @property
    def young(self) -> bool:
        """Whether it died unasked, before READY or so soon after that a replacement would probably do the same."""
        if self.member.order is not Order.RUN:
            return False
        return self.member.ready_at is None or (self.served == 0 and self.at - self.member.ready_at < YOUNG)


Role = Literal["incumbent", "successor", "retiring"]
"""A worker's place in its slot."""

_FROM_OUTSIDE = frozenset({9, 15, 2})  # SIGKILL, SIGTERM, SIGINT: sent by somebody, unlike SIGSEGV


class Roster:
    """Workers by slot and by pid."""

    def __init__(self) -> None:
        self.slots: dict[int, Slot] = {}
        self._by_pid: dict[int, Member] = {}
        self._expected = 0
        self._turns = itertools.count()

    def __len__(self) -> int:
        """Living workers, retiring ones included."""
        return len(self._by_pid)

    def __iter__(self) -> Iterator[Member]:
        """Every living worker."""
        return iter(list(self._by_pid.values()))

    def get(self, pid: int) -> Member | None:
        """The worker with that pid."""
        return self._by_pid.get(pid)

    def incumbent(self, index: int) -> Member | None:
        """Who serves in slot ``index``, or starts to."""
        found = self.slots.get(index)
        return found.incumbent if found else None

    def slot(self, index: int) -> Slot:
        """Slot ``index``, made when it is new."""
        found = self.slots.get(index)
        if found is None:
            found = self.slots[index] = Slot(index)
        return found

    @property
    def pressed(self) -> bool:
        """Whether somebody may be killed at a moment that is set: one who leaves, or starts."""
        return any(member.deadline is not None or member.ready_at is None for member in self._by_pid.values())

    def entries(self) -> set[int]:
        """The entries that are taken."""
        return {member.entry for member in self._by_pid.values()}

    @property
    def expected(self) -> int:
        """How many workers have been asked for that have not been born (count)."""
        return self._expected

    # Facts.

    def expect(self, slot: int) -> None:
        """Somebody else has been asked to fork a worker into ``slot``."""
        self.slot(slot).expected = True
        self._expected += 1

    def expect_no_more(self, slot: int) -> None:
        """It has been born, or never will be."""
        self.slot(slot).expected = False
        self._expected -= 1

    def forked(self, *, slot: int, entry: int, pid: int, generation: int, now: float) -> Member:
        """A worker was forked into ``slot``: its incumbent when there is none, else its successor."""
        place = self.slot(slot)
        member = Member(pid, slot, entry, generation, now)
        if place.incumbent is None:
            place.incumbent = member
        elif place.successor is None:
            place.successor = member
        else:
            raise ValueError(f"slot {slot} has an incumbent and a successor already")
        self._by_pid[pid] = member
        return member

    def restored(self, member: Member, role: Role) -> None:
        """A worker of an earlier image of the master lives on; ``role`` is its place in its slot."""
        place = self.slot(member.slot)
        if role == "incumbent":
            place.incumbent = member
        elif role == "successor":
            place.successor = member
        else:
            place.retiring.append(member)
        self._by_pid[member.pid] = member

    def role(self, member: Member) -> Role:
        """A worker's place in its slot."""
        place = self.slots[member.slot]
        if place.incumbent is member:
            return "incumbent"
        return "successor" if place.successor is member else "retiring"

    def ready(self, member: Member, now: float) -> Member | None:
        """``member`` accepts.

        Returns:
            The incumbent whose place it took, who retires now; None when there was none.
        """
        if member.ready_at is not None:
            return None
        member.ready_at = now
        place = self.slots[member.slot]
        if place.successor is not member:
            return None
        old, place.incumbent, place.successor = place.incumbent, member, None
        if old is not None:
            place.retiring.append(old)
        return old

    def wanted(self, member: Member, reason: Reason) -> None:
        """A replacement for ``member`` was asked for; the first reason stays."""
        if not member.wanted:
            member.wanted = True
            member.reason = reason
            member.turn = next(self._turns)

    def retired(self, member: Member, order: Order, deadline: float | None, reason: Reason, now: float) -> None:
        """``member`` was told to leave. An order only ever grows, a deadline only ever shrinks."""
        place = self.slots[member.slot]
        if place.incumbent is member:
            place.incumbent, place.successor = place.successor, None
            place.retiring.append(member)
        elif place.successor is member:
            place.successor = None
            place.retiring.append(member)
        member.order = max(member.order, order)
        if deadline is not None:
            member.deadline = deadline if member.deadline is None else min(member.deadline, deadline)
        member.reason = reason
        member.wake_ups, member.woken_at = 0, now

    def woken(self, member: Member, now: float) -> None:
        """``member`` was reminded of its order."""
        member.wake_ups += 1
        member.woken_at = now

    def exited(
        self,
        member: Member,
        exit: Exit,  # noqa: A002  # the word is Exit's
        *,
        served: int,
        now: float,
        in_hand: tuple[InHand, ...] = (),
    ) -> Death:
        """``member`` is dead and leaves the roster."""
        place = self.slots[member.slot]
        death = Death(member, exit, now, served, place.successor is member, in_hand)
        del self._by_pid[member.pid]
        if place.incumbent is member:
            place.incumbent, place.successor = place.successor, None
            replaced = next((old for old in place.retiring if old.order is Order.RUN), None)
            if place.incumbent is None and replaced is not None:
                place.retiring.remove(replaced)
                place.incumbent = replaced
                replaced.wanted = True
        elif place.successor is member:
            place.successor = None
        else:
            place.retiring.remove(member)
        return death

    def unsaid(self, member: Member) -> None:
        """The log had no room for what ``member`` asked for."""
        member.unsaid = True

    def slowed(self, member: Member, since: float, now: float) -> None:
        """``member`` was asked what it does so slowly, since it has been busy ``since`` that moment."""
        member.slow_since, member.slow_at = since, now

    def slowness_told(self, member: Member) -> None:
        """What ``member`` does so slowly has been told."""
        member.slow_at = None

    def dumped(self, member: Member, now: float) -> None:
        """``member`` was asked for its tracebacks, since it seems to hang."""
        member.dumped_at, member.slow_at = now, None

    def spared(self, member: Member) -> None:
        """``member`` has finished what took it too long."""
        member.dumped_at = None

    def aborted(self, member: Member, now: float) -> None:
        """``member`` was sent SIGABRT, for the first time or once more."""
        if member.aborted_at is None:
            member.aborted_at = now
        member.aborts += 1
        member.abort_sent_at = now

    def questioned(self, member: Member) -> None:
        """``member`` was asked what keeps it from its end."""
        member.questioned = True

    def killed(self, member: Member, now: float) -> None:
        """``member`` was sent SIGKILL."""
        member.killed_at = now

    def died_young(self, slot: Slot, not_before: float) -> None:
        """Somebody died young in ``slot``, which holds back."""
        slot.young_deaths += 1
        slot.not_before = not_before

    def proved(self, slot: Slot) -> None:
        """No death speaks against ``slot`` any more."""
        slot.young_deaths, slot.not_before = 0, 0.0

    def hurried(self, slot: Slot) -> None:
        """Somebody waits to be served in ``slot``: it holds back no longer."""
        slot.not_before = 0.0

    def thawed(self, seconds: float) -> None:
        """The master itself was frozen, for ``seconds`` at the most: deadlines to leave come that much later.

        What has happened stays where it was in time; the policy counts spans from the thaw at the earliest.
        """
        for member in self._by_pid.values():
            if member.deadline is not None:
                member.deadline += seconds
