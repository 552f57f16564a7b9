"""A master's world without processes: the test says what the workers do, and time is a number.

:class:`World` carries out what the policy decides as the master does, and holds each action to what is promised: one
that comes too early, too late, to the wrong worker or beyond a limit fails the test on the spot.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from prefork.config.settings import Settings
from prefork.scoreboard.layout import Order
from prefork.supervisor import policy
from prefork.supervisor.cause import Cause, Reason
from prefork.supervisor.death import Death
from prefork.supervisor.exits import Exits
from prefork.supervisor.goal import Goal
from prefork.supervisor.member import Member, Slot
from prefork.supervisor.notifications import Notifier
from prefork.supervisor.policy import Burden, Decision, Vital
from prefork.supervisor.roster import Roster
from prefork.system.process import Exit

_A = TypeVar("_A", bound=policy.Action)

START = 1000.0
"""The first moment."""

SOON = 1e-6
"""Seconds: what adding floats may cost."""

SIGABRT, SIGKILL, SIGSEGV, SIGTERM = 6, 9, 11, 15


@dataclass(eq=False)
class Process:
    """What stands behind a member: what its entry says, and how it takes signals."""

    member: Member
    busy_since: float | None = None
    asked: float | None = None
    obeying: bool = False
    wake_ups: int = 0
    served: int = 0
    stubborn: bool = False
    """SIGABRT does nothing to it."""
    ended: Exit | None = None

    @property
    def starting(self) -> bool:
        return self.member.starting

    def end(self, code: int | None = None, signal: int | None = None) -> None:
        """Die; the master learns of it later. A process dies once."""
        if self.ended is None:
            self.ended = Exit(code, signal)


def knows_what_follows(roster: Roster, slots: Iterable[int]) -> None:
    """What a roster says at once is what a look at each of its workers and slots would show."""

    def pids(members: Iterable[Member]) -> set[int]:
        return {member.pid for member in members}

    assert pids(roster.restless) == pids(member for member in roster if not member.calm)
    assert pids(roster.asked) == pids(member for member in roster if member.wanted)
    turns = [member.turn for member in roster.asked]
    assert turns == sorted(turns)
    several = {slot.index for slot in roster.slots.values() if slot.successor or slot.expected or slot.retiring}
    assert {slot.index for slot in roster.unsettled} == several
    nobody = [index for index in slots if roster.incumbent(index) is None and not roster.slot(index).expected]
    assert [slot.index for slot in roster.vacant(slots)] == nobody
    incumbents = [roster.incumbent(index) for index in slots]
    assert roster.complete(slots) == all(one is not None and not one.starting for one in incumbents)
    assert roster.reach == max((member.slot + 1 for member in roster), default=0)
    assert roster.pressed == any(member.starting or member.deadline is not None for member in roster)


@dataclass
class World:
    """One server.

    Args:
        settings: its settings.
        now: the first moment, monotonic seconds.
    """

    settings: Settings
    now: float = START
    fork_fails: bool = False
    log: list[policy.Action] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    """When each of ``log`` was done."""
    decisions: int = 0

    def __post_init__(self) -> None:
        size, smallest, largest = self.settings.size(4)
        self.goal = Goal(size=size, smallest=smallest, largest=largest)
        self.roster = Roster()
        self.judge = Exits(self.goal, self.roster, self.settings, Notifier())
        self.processes: dict[int, Process] = {}
        self.deaths: list[Death] = []
        self.failed_reloads = 0
        self.wake_at: float | None = None
        self._pids = itertools.count(101)
        self._peak = max(size, largest)

    # What is there.

    def slot(self, index: int) -> Slot:
        return self.roster.slot(index)

    def of(self, member: Member | None) -> Process:
        assert member is not None
        return self.processes[member.pid]

    @property
    def alive(self) -> list[Process]:
        """Those who have not ended, the oldest first."""
        return [process for process in self.processes.values() if process.ended is None]

    @property
    def booting(self) -> list[Process]:
        return [process for process in self.alive if process.starting]

    @property
    def serving(self) -> list[Process]:
        """READY, and not told to leave."""
        return [p for p in self.alive if not p.starting and p.member.order is Order.RUN]

    @property
    def full(self) -> bool:
        """Whether every slot has the one worker that it should have, and there is nobody else."""
        incumbents = [self.slot(index).incumbent for index in range(self.goal.size)]
        return {member and member.pid for member in incumbents} == set(self.processes) and all(
            member is not None and not member.starting and member.order is Order.RUN for member in incumbents
        )

    def vital(self, member: Member) -> Vital:
        process = self.of(member)
        in_hand = () if process.busy_since is None else (Burden(process.busy_since, process.asked),)
        return Vital(in_hand, process.obeying)

    # Facts.

    def ready(self, process: Process) -> None:
        """It says READY; what the master makes of it."""
        member = process.member
        assert process.ended is None
        self.roster.ready(member, self.now)
        self.judge.booted()
        incumbents = [self.slot(index).incumbent for index in range(self.goal.size)]
        serving = [each for each in incumbents if each is not None and not each.starting]
        if len(serving) == self.goal.size:
            self.goal.completed()
            if all(each.generation == self.goal.generation for each in serving):
                self.goal.rolled()

    def reap(self) -> list[Death]:
        """The master learns of every end."""
        ended = [process for process in self.processes.values() if process.ended is not None]
        return [self._exited(process) for process in ended]

    def _exited(self, process: Process) -> Death:
        assert process.ended is not None
        member = process.member
        death = self.roster.exited(member, process.ended, served=process.served, now=self.now)
        del self.processes[member.pid]
        self.deaths.append(death)
        rolling = self.goal.rolling
        self.judge.judge(death, "")
        if rolling and not self.goal.rolling:
            self.failed_reloads += 1
        return death

    def resize(self, size: int) -> None:
        self.goal.resize(size)
        self._peak = max(self._peak, size)

    def reload(self) -> None:
        policy.roll(self.goal, self.roster)

    def stop(self, order: Order, seconds: float) -> None:
        """The server ends; the order only grows, and the deadline is set anew."""
        self.goal.stop.begin(order, self.now + seconds)
        self.goal.rolled()

    def freeze(self, seconds: float) -> None:
        """The whole tree stands still for that long, and the master finds out."""
        self.now += seconds
        self.roster.thawed(seconds)
        self.goal.thawed(seconds, self.now)

    # Time.

    def turn(self) -> Decision:
        """Decide and act until there is nothing to be done at this moment; it must come to that soon."""
        most = 10 + 4 * (len(self.roster) + len(self.goal.slots))
        for _ in range(most):
            decision = self._decide()
            for action in decision.actions:
                self.log.append(action)
                self.times.append(self.now)
                self._apply(action)
            if not decision.actions:
                assert decision.wake_at is None or decision.wake_at > self.now, "it would be asked again at once"
                self.wake_at = decision.wake_at
                self._check()
                return decision
            assert decision.wake_at is not None, "what was done has deadlines that nobody would wake for"
            assert decision.wake_at <= self.now
        raise AssertionError(f"no rest after {most} decisions")

    def _decide(self) -> Decision:
        self.decisions += 1
        self.judge.recheck_crash_loop(self.now)
        knows_what_follows(self.roster, self.goal.slots)
        decision = policy.decide(self.settings, self.goal, self.roster, self.vital, self.now)
        self.goal.timing.scan_next(decision.scan_at)
        return decision

    def wakes(self, seconds: float) -> Iterator[float]:
        """Let time go on; yields the moment at each wake, before the turn, and at the end."""
        until = self.now + seconds
        self._learn()
        count = 0
        while self.wake_at is not None and self.wake_at < until:
            count += 1
            assert count < 1000 + 20 * seconds, "the master does not sleep"
            self.now = self.wake_at
            yield self.now
            self._learn()
        self.now = until
        yield self.now
        self._learn()

    def _learn(self) -> None:
        """Take turns until nobody has ended whose exit was not taken."""
        self.reap()
        self.turn()
        while self.reap():
            self.turn()

    def advance(self, seconds: float) -> int:
        """Let time go on while the workers do nothing new; returns how often the master woke."""
        return len(list(self.wakes(seconds)))

    def behave(self) -> None:
        """Every worker does what a good one does: boots, finishes what it has, leaves when it is told to."""
        for process in self.alive:
            process.busy_since = process.asked = None
            if process.member.order is not Order.RUN:
                process.obeying = True
                process.end(0)
            elif process.starting:
                self.ready(process)
        self.reap()

    def calm(self, seconds: float, until: Callable[[], bool]) -> float:
        """No more faults: let time go on with everybody behaving, until ``until``; returns the seconds it took."""
        self.fork_fails = False
        self.goal.forks.release()
        self.goal.forks.has_memory()
        began = self.now
        while True:
            self.behave()
            self.turn()
            if until():
                return self.now - began
            assert self.now - began < seconds, f"it takes more than {seconds} s"
            self.advance(0.25)

    # Actions, each held to its rule.

    def _apply(self, action: policy.Action) -> None:  # noqa: C901  # a case for each kind of action
        match action:
            case policy.Spawn(slot, generation):
                self._spawn(slot, generation)
            case policy.Retire(member, order, deadline, reason):
                self._may_retire(member, order, deadline, reason)
                self.roster.retired(member, order, deadline, reason, self.now)
            case policy.WakeUp(member):
                assert member.order is not Order.RUN, "woken without an order"
                assert not self.of(member).obeying, "reminded of what it is doing"
                assert self.now - member.woken_at >= policy.WAKE_UPS.delay(member.wake_ups, 0.0) - SOON
                self.of(member).wake_ups += 1
                self.roster.woken(member, self.now)
            case policy.AskWhy(member, since):
                self._may_ask_why(member, since)
                self.roster.slowed(member, since, self.now)
            case policy.TellWhy(member):
                assert member.slow_at is not None
                assert self.now - max(member.slow_at, self.goal.timing.epoch) >= policy.DUMP_TIME - SOON, "too soon"
                self.roster.slowness_told(member)
            case policy.Dump(member, seconds):
                assert member.dumped_at is None
                self._may_dump(member, seconds)
                self.roster.dumped(member, self.now)
            case policy.Spare(member):
                self._was_dumped(member)
                assert not member.starting, "spared while booting"
                assert not self._is_overdue(member), "spared while hanging"
                self.roster.spared(member)
                assert member.dumped_at is None
            case policy.Abort(member):
                self._may_abort(member)
                self.roster.aborted(member, self.now)
                if not self.of(member).stubborn:
                    self.of(member).end(signal=SIGABRT)
            case policy.AbortAgain(member):
                assert member.aborted_at is not None, "reminded of what it was not told"
                assert member.killed_at is None
                assert self.now - member.abort_sent_at >= policy.WAKE_UPS.delay(member.aborts - 1, 0.0) - SOON
                self.roster.aborted(member, self.now)
            case policy.Kill(member):
                self._may_kill(member)
                self.roster.killed(member, self.now)
                self.of(member).end(signal=SIGKILL)
            case policy.Question(member):
                assert not member.questioned
                self.roster.questioned(member)
            case policy.Replace(member, reason):
                self._may_replace(member, reason)
                self.roster.wanted(member, reason)

    def _spawn(self, index: int, generation: int) -> None:
        goal, settings, slot = self.goal, self.settings, self.slot(index)
        if goal.forks.held_until is not None and self.now < goal.forks.held_until:
            return  # an earlier fork of this decision failed
        assert goal.stop.order is Order.RUN, "forked while the server stops"
        assert not goal.forks.shut, "forked while the system is exhausted"
        assert index in goal.slots, "forked into a slot that is not wanted"
        assert generation == goal.generation
        assert self.now >= slot.not_before, "forked into a slot that holds back"
        bound = policy.limit(settings, goal, self.roster)
        surge = max(settings.reload_surge, settings.max_recycling)
        assert bound <= max(self._peak, len(goal.slots)) + surge
        if slot.incumbent is not None:
            incumbent = slot.incumbent
            assert slot.successor is None, "two successors"
            assert not incumbent.starting, "a successor for somebody who has not begun"
            rolls = goal.rolling and incumbent.generation < generation
            assert rolls or incumbent.wanted, "a successor that nobody asked for"
            wanted = [self.slot(each) for each in goal.slots]
            extra = sum((each.successor is not None) + len(each.retiring) for each in wanted)
            assert extra < (settings.reload_surge if rolls else settings.max_recycling), "too many at once"
        assert len(self.roster) < bound, "too many workers"
        if self.fork_fails:
            goal.forks.fork_failed(self.now)
            return
        goal.forks.forked()
        entry = next(number for number in itertools.count() if number not in self.roster.entries())
        pid = next(self._pids)
        member = self.roster.forked(slot=index, entry=entry, pid=pid, generation=generation, now=self.now)
        self.processes[pid] = Process(member)

    def _may_retire(self, member: Member, order: Order, deadline: float | None, reason: Reason) -> None:
        assert order > member.order, "told again"
        assert reason.cause is not Cause.OTHER
        if self.goal.stop.order is not Order.RUN:
            assert (order, deadline) == (self.goal.stop.order, self.goal.stop.deadline)
            return
        assert order is Order.SEAL
        assert deadline == self.now + self.settings.graceful_timeout
        if member.slot in self.goal.slots:
            incumbent = self.slot(member.slot).incumbent
            assert incumbent is not None, "a slot is left empty"
            assert incumbent is not member, "the incumbent leaves before its successor is READY"
            assert not incumbent.starting

    def _may_dump(self, member: Member, seconds: float) -> None:
        if member.starting:
            due = max(member.born, self.goal.timing.epoch) + self.settings.boot_timeout
            assert self.settings.boot_timeout
            assert abs(seconds - (self.now - member.born)) < SOON
        else:
            process = self.of(member)
            assert self.settings.timeout
            assert process.busy_since is not None, "an idle worker is taken for hung"
            due = max(process.busy_since, self.goal.timing.epoch) + self.settings.timeout
            due = max(due, process.asked or 0.0)
            assert abs(seconds - (self.now - process.busy_since)) < SOON
        assert -SOON < self.now - due < SOON, f"a hang is found {self.now - due} s after its time"

    def _may_ask_why(self, member: Member, since: float) -> None:
        busy_since = self.of(member).busy_since
        assert busy_since == since, "an idle worker is taken for slow"
        assert member.slow_since != since, "asked again"
        assert member.dumped_at is None
        assert self.settings.slow_log
        assert self.now > self._slow_at(member) - SOON, "asked too soon"

    def _slow_at(self, member: Member) -> float:
        process, settings = self.of(member), self.settings
        if process.busy_since is None or not settings.timeout or not settings.slow_log:
            return math.inf
        since = max(process.busy_since, self.goal.timing.epoch)
        overdue_at = max(since + settings.timeout, process.asked or 0.0)
        return since + (overdue_at - since) * settings.slow_log

    def _was_dumped(self, member: Member) -> None:
        assert member.dumped_at is not None
        assert member.aborted_at is None
        assert self.now - max(member.dumped_at, self.goal.timing.epoch) >= policy.DUMP_TIME - SOON, "too soon"

    def _is_overdue(self, member: Member) -> bool:
        process = self.of(member)
        if process.busy_since is None or not self.settings.timeout:
            return False
        due = max(process.busy_since, self.goal.timing.epoch) + self.settings.timeout
        return self.now >= max(due, process.asked or 0.0)

    def _may_abort(self, member: Member) -> None:
        self._was_dumped(member)
        assert member.starting or self._is_overdue(member), "it has finished, or asked for more time"

    def _may_kill(self, member: Member) -> None:
        assert member.killed_at is None
        deadlines = [at for at in (member.deadline, self.goal.stop.deadline) if at is not None]
        if member.order is not Order.RUN and min(deadlines, default=self.now + 1) <= self.now:
            return
        assert member.aborted_at is not None, "killed without cause"
        assert self.now - max(member.aborted_at, self.goal.timing.epoch) >= policy.ABORT_TIME - SOON

    def _may_replace(self, member: Member, reason: Reason) -> None:
        settings = self.settings
        assert reason.cause is Cause.MAX_AGE
        assert not member.wanted
        assert member.ready_at is not None
        assert settings.max_age
        due = member.ready_at + settings.max_age
        assert due - SOON <= self.now <= max(due + settings.max_age_jitter, self.goal.timing.epoch) + SOON

    # What holds whenever there is nothing to be done.

    def _check(self) -> None:
        goal, settings = self.goal, self.settings
        assert {member.pid for member in self.roster} == set(self.processes)
        members = [member for slot in self.roster.slots.values() for member in slot.members()]
        assert sorted(member.pid for member in members) == sorted(self.processes)
        assert len(self.roster.entries()) == len(members)
        for slot in self.roster.slots.values():
            self._check_slot(slot)
        for member in members:
            if member.killed_at is not None:
                continue
            if member.order is not Order.RUN:
                deadlines = [at for at in (member.deadline, goal.stop.deadline) if at is not None]
                assert deadlines, "told to leave, and nobody will ever see to it"
                assert self.now < min(deadlines), "alive beyond its deadline"
                assert self.wake_at is not None
                assert self.wake_at <= min(deadlines)
            if goal.stop.order is not Order.RUN:
                assert member.order >= goal.stop.order
            self._check_hang(member)
        if goal.stop.order is Order.RUN and not goal.forks.shut and (goal.forks.held_until or 0.0) <= self.now:
            room = policy.limit(settings, goal, self.roster) - len(self.roster)
            for index in goal.slots:
                slot = self.slot(index)
                assert slot.incumbent is not None or self.now < slot.not_before or room <= 0, "an empty slot"

    def _check_slot(self, slot: Slot) -> None:
        serving = [m for m in slot.members() if m.order is Order.RUN and not m.starting and m.killed_at is None]
        assert len(serving) <= 1, "two workers of one slot serve by order"
        assert all(member.order is not Order.RUN for member in slot.retiring)
        assert slot.successor is None or (slot.incumbent is not None and slot.successor.starting)
        for member in (slot.incumbent, slot.successor):
            assert member is None or member.order is Order.RUN
        if self.goal.stop.order is Order.RUN and slot.index not in self.goal.slots:
            assert slot.incumbent is None
            assert slot.successor is None

    def _check_hang(self, member: Member) -> None:
        process, settings = self.of(member), self.settings
        if member.dumped_at is not None or process.ended is not None:
            return
        if member.starting:
            due = max(member.born, self.goal.timing.epoch) + settings.boot_timeout
            assert not settings.boot_timeout or self.now < due + SOON, "its boot hangs and nobody looks"
        elif settings.timeout and process.busy_since is not None:
            due = max(process.busy_since, self.goal.timing.epoch) + settings.timeout
            assert self.now < max(due, process.asked or 0.0) + SOON, "it hangs and nobody looks"
            asked = member.slow_since == process.busy_since
            assert asked or self.now < self._slow_at(member) + SOON, "it is slow and nobody asks"


# To say it shortly.


def started(workers: int = 1, **given: Any) -> World:
    """A server whose first workers are forked and boot."""
    made = World(Settings(workers=workers, **given), now=START)
    made.turn()
    return made


def serving(workers: int = 1, **given: Any) -> World:
    """A server whose first workers are READY."""
    made = started(workers, **given)
    for process in made.booting:
        made.ready(process)
    made.turn()
    clear(made)
    return made


def clear(world: World) -> None:
    """Forget what was done."""
    world.log.clear()
    world.times.clear()


def done(world: World, kind: type[_A]) -> list[_A]:
    """What was done of that kind."""
    return [action for action in world.log if isinstance(action, kind)]


def kinds(world: World) -> list[str]:
    """What was done, by kind."""
    return [type(action).__name__ for action in world.log]


def moments(world: World, seconds: float, *kinds: type[policy.Action]) -> list[tuple[str, float]]:
    """What is done in the next seconds, and how long after now."""
    began, before = world.now, len(world.log)
    world.advance(seconds)
    done = zip(world.log[before:], world.times[before:], strict=True)
    return [(type(action).__name__, round(at - began, 6)) for action, at in done if isinstance(action, kinds)]


def incumbent(world: World, slot: int = 0) -> Process:
    """Who serves in that slot."""
    return world.of(world.slot(slot).incumbent)


def busy(world: World, slot: int = 0) -> Process:
    """Whoever serves in that slot has taken a connection now."""
    process = incumbent(world, slot)
    process.busy_since = world.now
    return process
