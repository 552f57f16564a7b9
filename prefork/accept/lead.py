"""The lead: which lane of a worker waits for its next connection.

A worker with several lanes has one way to accept (`prefork.accept.laned_acceptor`), and whoever has the lead goes its
way: all that accepts, backs off, parks and drains is done by one thread at a time, as in a worker with one. Who has
taken a connection gives the lead away, and serves; who has finished takes it if it is vacant, and else rests. So a
connection changes no threads, and where nothing is gained by a second lane none is woken.

Whether the lead is passed on to a lane that rests:

* **A process is wholly idle**, another one: no. That one takes the next connection; to a second lane here it would be
  dearer, and each would be in the other's way (the interpreter's lock).
* **What is served here is quick**, as one of the last few was: no. It is over before another thread has come to run,
  and a change of threads costs as much as such a request.
* Else yes.

While something is in hand and the lead is vacant, the main thread looks after it (`prefork.accept.lanes`): it has a
lane that rests take the lead where the one in hand is not quick, and when no process is idle any more.

A *stance* in shared memory says of each process whether it is idle. A lock guards what lanes share, for some
instructions at a time. It is never taken in a handler of a signal. Who says that he sleeps, and looks whether he may,
does both while he has it, as who gives him something to do says so: without the interpreter's lock each of the two
could otherwise see the other's word as it was before.
"""

from __future__ import annotations

from _thread import allocate_lock  # bound now: gevent's patches put theirs in place
from collections.abc import Callable
from typing import Any, Final

from prefork.scoreboard.entry import Entry, Lane
from prefork.scoreboard.layout import Order
from prefork.scoreboard.stances import Stance, Stances

QUICK: Final = 200_000
"""Nanoseconds that a request may take and still count as quick: ten times what it costs to wake another lane."""

_LATELY: Final = 8  # requests of which one has to have been quick: any of them may have waited for a CPU
_RUN: Final = Order.RUN
_NONE, _IDLE, _STANDING_BY = Stance


class LaneThread:
    """One lane, as the lead knows it.

    Args:
        number: which, from 0 on.
        marks: its words of the scoreboard.

    Attributes:
        accepted: what it has in hand, as an acceptor yields it.
        rests: whether it waits to be given the lead.
    """

    __slots__ = ("accepted", "asleep", "marks", "number", "rests")

    def __init__(self, number: int, marks: Lane | None = None) -> None:
        self.number = number
        self.marks = marks
        self.accepted: Any = None
        self.rests = False
        self.asleep = allocate_lock()  # who rests waits for it
        self.asleep.acquire()

    def wake(self) -> None:
        """Let it look again. Idempotent."""
        try:
            self.asleep.release()
        except RuntimeError:
            pass  # it has been woken, and has not looked yet


_NOBODY: Final = LaneThread(-1)
"""Who has the lead before there is one."""


class Lead:
    """Who has the lead in one worker's process.

    Args:
        entry: the worker's entry.
        stances: what each process has to do with the next connection.
        rouse: wakes the main thread.
        ring: wakes the main threads of those that stand by.

    Attributes:
        leader: who has it; None when it is vacant.
        turns: how often it has been taken (count).
        vacancies: how often it has been left vacant (count).
        over: whether nothing more is to be waited for.
        watched: whether the main thread looks after the lead while it is vacant; it clears it when it goes to sleep.
        attended: whether it waits in the lanes' place meanwhile, and is to be told that a lane does.
        at_once: whether a connection is to be taken though a process seems to be idle: nobody comes for it.
    """

    def __init__(self, entry: Entry, stances: Stances, rouse: Callable[[], object], ring: Callable[[], object]) -> None:
        self.leader: LaneThread | None = _NOBODY
        self.turns = self.vacancies = 0
        self.over = self.watched = self.attended = self.at_once = False
        self._entry = entry
        self._stances = stances
        self._rouse = rouse
        self._ring = ring
        self._lock = allocate_lock()
        self._resting: list[LaneThread] = []
        self._serving: set[LaneThread] = set()
        self._quick = 0  # for how many requests more what is served here counts as quick

    @property
    def in_hand(self) -> int:
        """How many lanes have something in hand."""
        return len(self._serving)

    @property
    def leaving(self) -> bool:
        """Whether there is an order to leave."""
        return self._entry.obeyed is not _RUN

    # What a lane does.

    def open(self) -> None:
        """MAIN THREAD. Let the lanes begin."""
        with self._lock:
            self.leader = None
        self.give()

    def await_lead(self, lane: LaneThread) -> bool:
        """Take the lead, or rest until it is given.

        Returns:
            Whether this lane has it; False when there is nothing more to wait for.
        """
        while True:
            with self._lock:
                if self.over:
                    return False
                if self.leader is None and not lane.rests:
                    self._lead(lane)
                if self.leader is lane:
                    lane.rests = False
                    return True
                self._rest(lane)
            lane.asleep.acquire()

    def took(self, lane: LaneThread) -> None:
        """The leader has a connection: serving is next. The lead is passed on, or left vacant."""
        following = None
        with self._lock:
            self._serving.add(lane)
            if self.leader is not lane:
                return  # an exception has come since
            self.at_once = False
            self._stances.assume(_NONE)
            alone = False
            if not self._quick or self.leaving:
                idle, stand_by = self._stances.look()
                alone = stand_by and not idle
                if self._resting and (self.leaving or not idle):
                    following = self._resting.pop()
            if following is None:
                self._leave_vacant()
            else:
                self._lead(following)
        if following is not None:
            following.wake()
        else:
            self._have_watched()
        if alone:
            self._ring()

    def done(self, lane: LaneThread, nanoseconds: int) -> None:
        """It has been served, which took so long. The lead is this lane's if it is vacant."""
        with self._lock:
            self._serving.discard(lane)
            self._quick = _LATELY if nanoseconds < QUICK else max(0, self._quick - 1)
            if self.leader is None:
                self._lead(lane)
                self._stances.assume(_NONE)
            elif not self._serving and not self.leaving:
                self._stances.assume(_IDLE)  # the leader waits already
        if self.attended and self.leader is lane:
            self.attended = False
            self._rouse()

    def stand_by(self, lane: LaneThread) -> None:
        """The leader has nothing to wait for: others come first. It rests next, unless that is over by now.

        It is when there is an order; and when the last of what was in hand here has just been served, whose lane rests
        because this one waits: nobody would.
        """
        with self._lock:
            if self.leader is not lane or self.leaving or not self._serving:
                return
            self._leave_vacant()
            self._rest(lane)
        self._have_watched()

    def recover(self, lane: LaneThread) -> None:
        """An exception has come to this lane, anywhere: nothing is in its hand any more."""
        with self._lock:
            self._serving.discard(lane)
        self.heal()

    def finish(self) -> None:
        """Nothing more is to be waited for: all lanes end."""
        with self._lock:
            self.over = True
            self.leader = None
            resting, self._resting = self._resting, []
        for lane in resting:
            lane.wake()
        self._rouse()

    def _have_watched(self) -> None:
        if not self.watched:
            self.watched = True
            self._rouse()

    def _leave_vacant(self) -> None:
        self.leader = None
        self.vacancies += 1

    def _lead(self, lane: LaneThread) -> None:
        self.leader = lane
        self.turns += 1

    def _rest(self, lane: LaneThread) -> None:
        if not lane.rests:
            lane.rests = True
            self._resting.append(lane)

    # What the leader asks on its way.

    def may_wait(self) -> bool:
        """Whether to wait for the next connection; if not, the process stands by."""
        with self._lock:
            if not self._serving:
                self._stances.assume(_NONE if self.leaving else _IDLE)
                return True
            if self.leaving or self.at_once or not self._stances.look()[0]:
                self._stances.assume(_NONE)
                return True
            return False

    def hide(self) -> None:
        """Nothing is taken for a while: this process counts as idle no more."""
        with self._lock:
            self._stances.assume(_NONE)

    # What the main thread does.

    def needs_no_look(self, vacancies: int) -> bool:
        """Whether the main thread can sleep until it is roused: nothing is in hand, or a lane waits.

        Args:
            vacancies: how many there had been at the look before. Where more come all the time it looks by itself,
                which is cheaper than to be roused for each.
        """
        with self._lock:
            calm = not self._serving or (self.leader is not None and self.vacancies == vacancies)
            self.watched = not calm
        return calm

    def attend(self, turns: int) -> bool:
        """Say that the main thread waits in the lanes' place; False when one of them does after all."""
        with self._lock:
            self.attended = self.vacant(turns)
        return self.attended

    def vacant(self, turns: int) -> bool:
        """Whether nobody has had the lead since ``turns``, and something is in hand."""
        return self.leader is None and self.turns == turns and bool(self._serving)

    @property
    def one_rests(self) -> bool:
        """Whether there is a lane to take it."""
        return bool(self._resting)

    def give(self) -> bool:
        """If the lead is vacant, have a lane that rests take it; whether one does."""
        with self._lock:
            lane = self._resting[-1] if self._resting and self.leader is None else None
            if lane is not None:
                self._lead(lane)
                self._resting.pop()
        if lane is None:
            return False
        lane.wake()
        return True

    def heal(self) -> None:
        """An exception has come, perhaps between the moment at which a lane was given the lead and its being woken."""
        lane = self.leader
        if lane is not None and lane.rests:
            lane.wake()

    def waits_for_the_bell(self) -> bool:
        """Say that this process stands by; whether it is to, for a process is idle and a lane rests here."""
        with self._lock:
            if self.leader is not None:
                return False
            if self._resting:
                self._stances.assume(_STANDING_BY)
            idle, _ = self._stances.look()
            if idle and self._resting:
                return True
            self._stances.assume(_NONE)
            alone = not idle and self._stances.look()[1]
        if alone:
            self._ring()  # nobody has when what is in hand here was taken, for it was to be quick
        return False
