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

Of most workers there is nothing to decide, however many they are: they serve, each alone in its slot. So the registry
knows at once who is not like that (:attr:`Roster.restless`, :attr:`Roster.unsettled`, :attr:`Roster.asked`,
:meth:`Roster.vacant`), and what happens to one worker costs the same beside ten and beside a thousand.

Nothing here calls the system or reads a clock; times are monotonic seconds that the caller gives.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Iterator

from prefork.scoreboard.layout import Order
from prefork.scoreboard.recorder import InHand
from prefork.supervisor.cause import Reason
from prefork.supervisor.death import Death
from prefork.supervisor.member import Member, Role, Slot
from prefork.system.process import Exit


class Roster:
    """Workers by slot and by pid."""

    def __init__(self) -> None:
        self.slots: dict[int, Slot] = {}
        self._by_pid: dict[int, Member] = {}
        self._restless: dict[int, Member] = {}  # by pid
        self._asked: dict[int, Member] = {}  # by pid
        self._unsettled: dict[int, Slot] = {}
        self._held: set[int] = set()  # slots with an incumbent, or that expect somebody
        self._served: set[int] = set()  # slots with an incumbent who is READY
        self._reach: int | None = 0  # None = not known
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
    def restless(self) -> list[Member]:
        """Those who are not calm."""
        return list(self._restless.values())

    @property
    def asked(self) -> list[Member]:
        """Those for whom a replacement has been asked, who asked first being the first."""
        return sorted(self._asked.values(), key=_turn)

    @property
    def unsettled(self) -> list[Slot]:
        """Slots with more than an incumbent: a successor, one who is expected, those who retire."""
        return list(self._unsettled.values())

    def vacant(self, slots: Iterable[int]) -> list[Slot]:
        """Those of ``slots`` that have no incumbent, and expect nobody."""
        return [self.slot(index) for index in slots if index not in self._held]

    def complete(self, slots: Iterable[int]) -> bool:
        """Whether each of ``slots`` has an incumbent who is READY."""
        return self._served.issuperset(slots)

    @property
    def reach(self) -> int:
        """How many slots there are up to the last one that somebody lives in (count)."""
        if self._reach is None:
            self._reach = max((member.slot + 1 for member in self._by_pid.values()), default=0)
        return self._reach

    @property
    def pressed(self) -> bool:
        """Whether somebody may be killed at a moment that is set: one who leaves, or starts."""
        return any(member.deadline is not None or member.ready_at is None for member in self._restless.values())

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
        place = self.slot(slot)
        place.expected = True
        self._expected += 1
        self._see(place)

    def expect_no_more(self, slot: int) -> None:
        """It has been born, or never will be."""
        place = self.slot(slot)
        place.expected = False
        self._expected -= 1
        self._see(place)

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
        self._came(member)
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
        self._came(member)

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
        place, old = self.slots[member.slot], None
        if place.successor is member:
            old, place.incumbent, place.successor = place.incumbent, member, None
            if old is not None:
                place.retiring.append(old)
        self._look_at(member)
        self._see(place)
        return old

    def wanted(self, member: Member, reason: Reason) -> None:
        """A replacement for ``member`` was asked for; the first reason stays."""
        if not member.wanted:
            member.wanted = True
            member.reason = reason
            member.turn = next(self._turns)
            self._asked[member.pid] = member

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
        self._look_at(member)
        self._see(place)

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
        self._went(member)
        if place.incumbent is member:
            place.incumbent, place.successor = place.successor, None
            replaced = next((old for old in place.retiring if old.order is Order.RUN), None)
            if place.incumbent is None and replaced is not None:
                place.retiring.remove(replaced)
                place.incumbent = replaced
                replaced.wanted = True
                self._asked[replaced.pid] = replaced
        elif place.successor is member:
            place.successor = None
        else:
            place.retiring.remove(member)
        self._see(place)
        return death

    def unsaid(self, member: Member) -> None:
        """The log had no room for what ``member`` asked for."""
        member.unsaid = True

    def slowed(self, member: Member, since: float, now: float) -> None:
        """``member`` was asked what it does so slowly, since it has been busy ``since`` that moment."""
        member.slow_since, member.slow_at = since, now
        self._look_at(member)

    def slowness_told(self, member: Member) -> None:
        """What ``member`` does so slowly has been told."""
        member.slow_at = None
        self._look_at(member)

    def dumped(self, member: Member, now: float) -> None:
        """``member`` was asked for its tracebacks, since it seems to hang."""
        member.dumped_at, member.slow_at = now, None
        self._look_at(member)

    def spared(self, member: Member) -> None:
        """``member`` has finished what took it too long."""
        member.dumped_at = None
        self._look_at(member)

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

    # What is known at once follows from the facts.

    def _came(self, member: Member) -> None:
        """``member`` lives, and has its place."""
        self._by_pid[member.pid] = member
        if member.wanted:
            self._asked[member.pid] = member
        if self._reach is not None:
            self._reach = max(self._reach, member.slot + 1)
        self._look_at(member)
        self._see(self.slots[member.slot])

    def _went(self, member: Member) -> None:
        """``member`` lives no more."""
        del self._by_pid[member.pid]
        self._restless.pop(member.pid, None)
        self._asked.pop(member.pid, None)
        if self._reach == member.slot + 1:
            self._reach = None  # others may live there

    def _look_at(self, member: Member) -> None:
        """What makes ``member`` calm or not may have changed."""
        if member.calm:
            self._restless.pop(member.pid, None)
        else:
            self._restless[member.pid] = member

    def _see(self, place: Slot) -> None:
        """Who lives in ``place``, or is expected there, may have changed."""
        incumbent, index = place.incumbent, place.index
        _keep(self._held, index, when=incumbent is not None or place.expected)
        _keep(self._served, index, when=incumbent is not None and incumbent.ready_at is not None)
        if place.successor is not None or place.expected or place.retiring:
            self._unsettled[index] = place
        else:
            self._unsettled.pop(index, None)


def _keep(known: set[int], index: int, *, when: bool) -> None:
    if when:
        known.add(index)
    else:
        known.discard(index)


_turn = operator.attrgetter("turn")
