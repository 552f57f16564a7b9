"""The policy: what the master does next, decided from facts alone.

``decide(settings, goal, roster, vitals, now)`` looks at what is wanted (:class:`Goal`), who lives (the roster) and what
busy workers say of themselves (vitals), and returns actions and the moment at which it wants to be asked again. It
calls no system, reads no clock and remembers nothing: what was done comes back as a fact in the roster or the goal. An
action that failed or was not carried out is simply decided again.

What it holds to, whatever the facts (tests/supervisor/test_policy.py drives it with random ones):

* a slot never has two workers that serve by order; a successor takes over when it is READY, and only then the
  incumbent is told to leave;
* no more than :func:`limit` workers live after a spawn: the wanted size, or the largest configured, and the surge;
* every worker told to leave has a deadline if there is one for it, and is killed at it;
* nobody is spawned while the server stops, while forks are held, or into a slot whose workers died young just now.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from prefork.config.settings import Settings
from prefork.scoreboard.layout import Order
from prefork.supervisor.cause import Cause, Reason
from prefork.supervisor.death import Death
from prefork.supervisor.goal import Goal
from prefork.supervisor.member import Member, Slot
from prefork.supervisor.roster import Roster
from prefork.system.backoff import Backoff
from prefork.system.record import MutableRecord, Record, fresh

SPAWN_BATCH = 64
"""Forks a decision asks for at the most, so that signals and exits are looked at in between."""

DUMP_TIME = 0.5
"""Seconds between asking a hung worker for its tracebacks and aborting it."""

ABORT_TIME = 1.0
"""Seconds between SIGABRT and SIGKILL."""

EVACUATION_LOOK = 0.1
"""Seconds between two looks at whether the lanes beside one that hangs have finished."""

WAKE_UPS = Backoff(initial=0.01, factor=2.0, maximum=1.0, jitter=0.0)
"""How a worker is reminded: a signal that lands just before a system call is entered goes unheard."""

RESPAWN = Backoff(initial=0.1, factor=2.0, maximum=30.0, jitter=0.0)
"""How a slot whose workers die young holds back."""

# Actions.


class Spawn(Record):
    """Fork a worker into ``slot``."""

    slot: int
    generation: int


class Retire(Record):
    """Write ``order`` into the worker's entry and wake it up."""

    member: Member
    order: Order
    deadline: float | None
    reason: Reason


class WakeUp(Record):
    """Remind a worker of its order."""

    member: Member


class Dump(Record):
    """Ask a worker for its tracebacks; it has been busy, or starting, for ``seconds``."""

    member: Member
    seconds: float
    lane: int | None = None
    """The lane that is, where it is not the only one that there may be."""


class AskWhy(Record):
    """Ask a worker that is slow for its tracebacks; it has been busy ``since`` that moment."""

    member: Member
    since: float


class TellWhy(Record):
    """Tell what a slow worker has answered; it goes on."""

    member: Member


class Abort(Record):
    """SIGABRT."""

    member: Member


class AbortAgain(Record):
    """SIGABRT once more, for who has not heard it."""

    member: Member


class Evacuate(Record):
    """Have a worker accept no more, as by an order to leave: some lanes hang, and what the others have is finished."""

    member: Member
    deadline: float
    hung: tuple[int, ...]
    """The lanes that hang."""


class Kill(Record):
    """SIGKILL."""

    member: Member


class Question(Record):
    """Ask a worker that is past its loop and will be killed in a moment for its tracebacks: what keeps it?"""

    member: Member


class Replace(Record):
    """Note that ``member`` is to be replaced."""

    member: Member
    reason: Reason


class Spare(Record):
    """``member`` is overdue no more: it has finished, or asked for more time, while its tracebacks were taken."""

    member: Member


Action = (
    Spawn
    | Retire
    | WakeUp
    | AskWhy
    | TellWhy
    | Dump
    | Abort
    | AbortAgain
    | Evacuate
    | Kill
    | Question
    | Replace
    | Spare
)


class Burden(NamedTuple):
    """What one lane has in hand."""

    since: float
    deadline: float | None = None
    """That its handler asked for."""
    lane: int = 0


class Vital(Record):
    """What a worker says of itself, in monotonic seconds."""

    in_hand: tuple[Burden, ...]
    obeying: bool
    """Whether it has seen an order to leave."""
    ending: bool = False
    """Whether it is past its loop."""
    parked: int = 0
    """How many connections it keeps; once it obeys, how many of them it has still to pass on."""

    @property
    def busy_since(self) -> float | None:
        """Since when it has the oldest of what it has in hand; None when it has nothing."""
        return min((one.since for one in self.in_hand), default=None)


class Decision(Record):
    """What to do now, when to be asked again (None: when something happens), when the vitals are next due."""

    actions: list[Action]
    wake_at: float | None
    scan_at: float


def roll(goal: Goal, roster: Roster) -> None:
    """Replace every worker by one of the next generation: other code, against which no death speaks yet."""
    goal.roll()
    for slot in roster.slots.values():
        roster.proved(slot)


def judge(goal: Goal, roster: Roster, death: Death) -> None:
    """Let a death count: a young one holds its slot back, that of a worker that had proved itself clears the record.

    A boot that was exhausted says nothing of the application, once that has booted: all forks are held instead. That
    of a successor is part of no crash loop: whoever it was to replace serves on.
    """
    member, slot = death.member, roster.slot(death.member.slot)
    proved = member.ready_at is not None and member.ready_at >= slot.not_before
    if death.boot_killed and member.generation == goal.generation:
        goal.failures.boot_killed()
    if death.exhausted and goal.ready:
        goal.forks.boot_exhausted(death.at)
    elif death.young:
        if not death.successor:
            goal.failures.died_young(death.at)
        roster.died_young(slot, death.at + RESPAWN.delay(slot.young_deaths, 0.0))
    elif proved or member.order is Order.RUN:
        roster.proved(slot)


class _Case(MutableRecord):
    """The facts of one decision, and the moments at which an undecided one becomes due."""

    settings: Settings
    goal: Goal
    roster: Roster
    vitals: Callable[[Member], Vital]
    now: float
    wakes: list[float] = fresh(factory=list)

    def due(self, at: float) -> bool:
        """Whether ``at`` has come; when not, the case is to be looked at again then."""
        if self.now >= at:
            return True
        self.wakes.append(at)
        return False

    def over(self, began: float, seconds: float) -> bool:
        """Whether ``seconds`` have passed since ``began``, or since the master was last frozen."""
        return self.due(max(began, self.goal.timing.epoch) + seconds)


def decide(settings: Settings, goal: Goal, roster: Roster, vitals: Callable[[Member], Vital], now: float) -> Decision:
    """What to do next.

    Args:
        settings: the settings; timeouts in seconds.
        goal: what is wanted.
        roster: who lives.
        vitals: reads what one worker says of itself; called only for workers for whom it matters now.
        now: monotonic seconds.
    """
    case = _Case(settings, goal, roster, vitals, now)
    actions: list[Action] = []
    if goal.stop.order is Order.RUN:
        actions += _shed_members(case)
        actions += _age(case)
        actions += _spawn(case)
    else:
        actions += _dismiss(case)
    told = {action.member.pid for action in actions if isinstance(action, Retire)}
    for member in roster.restless:
        if member.killed_at is None and member.pid not in told:
            actions += _see_to(case, member)
    scan_at = goal.timing.scan_at
    if any(isinstance(action, Spare) for action in actions):
        scan_at = now  # the last scan has passed over whoever is spared
    elif settings.timeout and case.due(scan_at):
        hung, scan_at = _scan(case)
        actions += hung
        case.wakes.append(scan_at)
    if len(goal.failures.young_deaths) >= settings.crash_limit:
        case.due(goal.failures.young_deaths[0] + settings.crash_window)  # the end of a crash loop is worth saying
    if actions:
        case.wakes.append(now)  # what is done now has deadlines of its own, which only the next decision sees
    return Decision(actions, min(case.wakes, default=None), scan_at)


def limit(settings: Settings, goal: Goal, roster: Roster) -> int:
    """How many workers may live at one moment: the size, or the largest configured or still lived in, and the surge.

    Slots that a larger size has left behind count while somebody lives there: were they not to, workers who finish what
    they have would take the place of one that died in a slot that stays.
    """
    return max(len(goal.slots), goal.largest, roster.reach) + max(settings.reload_surge, settings.max_recycling)


def _dismiss(case: _Case) -> Iterator[Retire]:
    """The server stops: everybody leaves."""
    for member in case.roster:
        if member.order < case.goal.stop.order:
            yield Retire(member, case.goal.stop.order, case.goal.stop.deadline, Reason(Cause.STOP))


def _shed_members(case: _Case) -> Iterator[Retire]:
    """Slots beyond the size, and those whose successor has taken over, leave."""
    deadline, roster = case.now + case.settings.graceful_timeout, case.roster
    wanted = case.goal.slots
    for slot in list(roster.slots.values()) if roster.reach > case.goal.size else roster.unsettled:
        surplus = slot.index not in wanted
        for member in slot.members() if surplus else slot.retiring:
            if member.order is Order.RUN:
                reason = Reason(Cause.SHRINK) if surplus else member.reason or Reason(Cause.RELOAD)
                yield Retire(member, Order.SEAL, deadline, reason)


def _age(case: _Case) -> Iterator[Replace]:
    """Whom ``max_age`` asks to be replaced. A worker's jitter follows from its pid, so that it stays the same."""
    settings = case.settings
    if not settings.max_age:
        return
    for slot in case.roster.slots.values():
        member = slot.incumbent
        if member is None or member.ready_at is None or member.wanted:
            continue
        chance = member.pid * 2654435761 % 2**32 / 2**32
        if case.due(member.ready_at + settings.max_age + settings.max_age_jitter * chance):
            yield Replace(member, Reason(Cause.MAX_AGE))


def _spawn(case: _Case) -> Iterator[Spawn]:
    """Fill empty slots, then fork successors for those who are to be replaced, as far as there is room."""
    goal, forks = case.goal, case.goal.forks
    if forks.shut or (forks.held_until is not None and not case.due(forks.held_until)):
        return
    room = limit(case.settings, goal, case.roster) - len(case.roster) - case.roster.expected
    empty = case.roster.vacant(goal.slots)
    begun = 0
    for slot in empty:
        if not case.due(slot.not_before):
            continue
        if begun == SPAWN_BATCH:
            return
        if begun < room:
            begun += 1
            yield Spawn(slot.index, goal.generation)
    # A place is kept for every empty slot, also for those that hold back: a successor must not take it.
    yield from _renew(case, min(room - len(empty), SPAWN_BATCH - begun))


def _renew(case: _Case, room: int) -> Iterator[Spawn]:
    """Fork successors, ``room`` at the most, within ``reload_surge`` and ``max_recycling``.

    A replacement is over when the one that was replaced is gone: those who still finish what they have count too.
    """
    goal, settings, wanted = case.goal, case.settings, case.goal.slots
    extra = 0
    for slot in case.roster.unsettled:
        if slot.index in wanted:
            more = slot.successor is not None or (slot.expected and slot.incumbent is not None)
            extra += len(slot.retiring) + more
    most = {True: settings.reload_surge, False: settings.max_recycling}
    room = min(room, max(most.values()) - extra)
    if room <= 0:
        return
    for rolls, slot in _leaving(case):
        if extra < most[rolls] and case.due(slot.not_before):
            yield Spawn(slot.index, goal.generation)
            room, extra = room - 1, extra + 1
            if not room:
                return


def _leaving(case: _Case) -> Iterator[tuple[bool, Slot]]:
    """Slots whose worker is to be replaced, and whether it is for its generation.

    Who asked first comes first: slots whose workers ask all the time must not keep the others from their turn.
    """
    goal, roster, wanted = case.goal, case.roster, case.goal.slots
    for member in roster.asked:
        slot = roster.slot(member.slot)
        if slot.incumbent is member and slot.index in wanted and _alone(slot):
            yield goal.rolling and member.generation < goal.generation, slot
    for index in wanted if goal.rolling else ():
        slot = roster.slot(index)
        old = slot.incumbent
        if old is not None and old.generation < goal.generation and not old.wanted and _alone(slot):
            yield True, slot


def _alone(slot: Slot) -> bool:
    """Whether an incumbent serves there, with nobody who would take its place."""
    return not (slot.incumbent is None or slot.incumbent.starting or slot.successor is not None or slot.expected)


def _see_to(case: _Case, member: Member) -> Iterator[Action]:
    """What one worker's own deadlines ask for."""
    if member.order is not Order.RUN:
        # The server's deadline may be sooner than the one that the worker was given.
        deadlines = [at for at in (member.deadline, case.goal.stop.deadline) if at is not None]
        if deadlines and case.due(min(deadlines)):
            yield Kill(member)
            return
        if deadlines and not member.questioned and case.due(min(deadlines) - DUMP_TIME) and case.vitals(member).ending:
            yield Question(member)
        if case.due(member.woken_at + WAKE_UPS.delay(member.wake_ups, 0.0)) and not case.vitals(member).obeying:
            yield WakeUp(member)
    boot_timeout = case.settings.boot_timeout
    if member.slow_at is not None and case.over(member.slow_at, DUMP_TIME):
        yield TellWhy(member)
    if member.dumped_at is not None:
        yield from _end(case, member)
    elif member.starting and boot_timeout and case.over(member.born, boot_timeout):
        yield Dump(member, case.now - member.born)


def _end(case: _Case, member: Member) -> Iterator[Action]:
    """The steps for a hung worker whose tracebacks were asked for: SIGABRT, then SIGKILL."""
    if member.aborted_at is not None:
        if case.over(member.aborted_at, ABORT_TIME):
            yield Kill(member)
        elif case.due(member.abort_sent_at + WAKE_UPS.delay(member.aborts - 1, 0.0)):
            yield AbortAgain(member)
    elif member.dumped_at is not None and case.over(member.dumped_at, DUMP_TIME):
        yield from (Abort(member),) if member.starting else _hung(case, member, member.dumped_at)


def _hung(case: _Case, member: Member, dumped_at: float) -> Iterator[Action]:
    """A worker that was overdue: spared, or ended when the lanes beside those that hang have had time to finish.

    And to pass on what it keeps, except under TLS, where the state of a connection knows one process. That nothing else
    is in hand is believed once it obeys: before, a lane may just have taken something.
    """
    vital, settings = case.vitals(member), case.settings
    hung = tuple(one.lane for one in vital.in_hand if case.now >= _overdue_at(case, one))
    obeys = vital.obeying and member.order is not Order.RUN
    if not hung:
        yield Spare(member)
    elif settings.threads == 1 or (
        obeys and len(hung) == len(vital.in_hand) and (not vital.parked or settings.certfile)
    ):
        yield Abort(member)
    elif member.order is Order.RUN:
        yield Evacuate(member, case.now + settings.graceful_timeout, hung)
    elif not vital.obeying and case.over(dumped_at, DUMP_TIME + ABORT_TIME):
        yield Abort(member)  # no Python code runs in it, so nobody there will finish
    elif case.due((member.deadline or dumped_at + settings.graceful_timeout) - ABORT_TIME):
        yield Abort(member)
    else:
        case.wakes.append(case.now + EVACUATION_LOOK)


def _overdue_at(case: _Case, one: Burden) -> float:
    """When a lane will have been busy for too long with what it has in hand."""
    if not case.settings.timeout:
        return math.inf
    at = max(one.since, case.goal.timing.epoch) + case.settings.timeout
    return at if one.deadline is None else max(at, one.deadline)


def _slow_at(case: _Case, one: Burden) -> float:
    """When a lane will have been busy for so long with what it has in hand that it is slow."""
    if not case.settings.slow_log:
        return math.inf
    since = max(one.since, case.goal.timing.epoch)
    return since + (_overdue_at(case, one) - since) * case.settings.slow_log


def _scan(case: _Case) -> tuple[list[Dump | AskWhy], float]:
    """Look at every worker's vitals: who is busy beyond its deadline, or slow, and when the next one may be.

    A worker that is idle now can't be overdue before ``timeout`` seconds from now, nor slow before its part of that, so
    this wakes a server at rest once in that time and still finds a hang at the moment it becomes one.
    """
    hung: list[Dump | AskWhy] = []
    next_scan = case.now + case.settings.timeout * (case.settings.slow_log or 1.0)
    for member in case.roster:
        if member.starting or member.dumped_at is not None:
            continue
        in_hand = case.vitals(member).in_hand
        if not in_hand:
            continue
        one = min(in_hand, key=functools.partial(_overdue_at, case))
        overdue_at = _overdue_at(case, one)
        if case.now >= overdue_at:
            hung.append(Dump(member, case.now - one.since, one.lane if case.settings.threads > 1 else None))
            continue
        next_scan = min(next_scan, overdue_at)
        asked = member.slow_at is not None
        for one in sorted(in_hand, key=lambda one: one.since):  # each is told of once, the oldest first
            slow_at = math.inf if one.since <= (member.slow_since or 0.0) else _slow_at(case, one)
            if case.now < slow_at:
                next_scan = min(next_scan, slow_at)
            elif asked:
                next_scan = min(next_scan, case.now + DUMP_TIME)  # when what was asked before has been answered
            else:
                asked = True
                hung.append(AskWhy(member, one.since))
    return hung, next_scan
