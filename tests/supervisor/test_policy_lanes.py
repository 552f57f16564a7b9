"""What the policy does about a lane that hangs, while its siblings in the same process have something in hand."""

from __future__ import annotations

from dataclasses import dataclass, field

from prefork.config.settings import Settings
from prefork.scoreboard.layout import Order
from prefork.supervisor import policy
from prefork.supervisor.cause import Cause, Reason
from prefork.supervisor.goal import Goal
from prefork.supervisor.member import Member
from prefork.supervisor.policy import Abort, Action, Burden, Dump, Evacuate, Kill, Spare, Spawn, Vital
from prefork.supervisor.roster import Roster

TIMEOUT, GRACE = 10.0, 5.0


def settings(threads: int = 4, certfile: str = "") -> Settings:
    return Settings(
        workers=1, threads=threads, timeout=TIMEOUT, graceful_timeout=GRACE, certfile=certfile, keyfile=certfile
    )


SETTINGS = settings()


@dataclass
class Case:
    """One worker with lanes."""

    in_hand: tuple[Burden, ...] = ()
    obeying: bool = False
    parked: int = 0
    settings: Settings = SETTINGS
    now: float = 100.0
    goal: Goal = field(default_factory=lambda: Goal(size=1, smallest=1, largest=1))
    roster: Roster = field(default_factory=Roster)

    def __post_init__(self) -> None:
        self.member = self.roster.forked(slot=0, entry=0, pid=7, generation=0, now=self.now)
        self.roster.ready(self.member, self.now)
        self.goal.timing.scan_next(self.now)

    def at(self, now: float) -> list[Action]:
        """What is done at a moment, and it is done."""
        self.now = now
        decision = policy.decide(self.settings, self.goal, self.roster, self.vital, now)
        self.goal.timing.scan_next(decision.scan_at)
        self.wake_at = decision.wake_at
        for action in decision.actions:
            match action:
                case Dump(member):
                    self.roster.dumped(member, now)
                case Evacuate(member, deadline):
                    self.roster.retired(member, Order.SEAL, deadline, Reason(Cause.TIMEOUT), now)
                case Abort(member):
                    self.roster.aborted(member, now)
                case Spare(member):
                    self.roster.spared(member)
                case Spawn(slot):
                    self.roster.forked(slot=slot, entry=1, pid=8, generation=0, now=now)
        return decision.actions

    def vital(self, member: Member) -> Vital:
        return (
            Vital(self.in_hand, self.obeying, parked=self.parked) if member is self.member else Vital((), obeying=False)
        )


def kinds(actions: list[Action]) -> list[type[Action]]:
    return [type(action) for action in actions]


def overdue() -> Case:
    """Lane 2 has been at it for too long, lanes 0 and 3 have not."""
    case = Case((Burden(115.0, lane=0), Burden(101.0, lane=2), Burden(116.0, lane=3)))
    assert case.at(100.5) == []
    assert case.at(111.0) == [Dump(case.member, 10.0, 2)]
    return case


def test_its_siblings_finish_before_it_is_ended() -> None:
    case = overdue()
    assert case.at(111.5) == [Evacuate(case.member, 111.5 + GRACE, (2,))]
    assert kinds(case.at(111.5)) == [Spawn]  # somebody else serves in its slot meanwhile
    case.obeying = True
    assert case.at(111.6) == []
    assert case.wake_at is not None
    assert case.wake_at <= 111.8
    case.in_hand = (Burden(101.0, lane=2), Burden(116.0, lane=3))
    assert case.at(113.0) == []
    case.in_hand = (Burden(101.0, lane=2),)
    assert case.at(113.1) == [Abort(case.member)]
    assert kinds(case.at(113.1 + policy.ABORT_TIME)) == [Kill]


def test_siblings_have_graceful_timeout_and_no_more() -> None:
    case = overdue()
    case.at(111.5)
    case.obeying = True
    assert Abort not in kinds(case.at(111.5 + GRACE - policy.ABORT_TIME - 0.01))
    assert Abort in kinds(case.at(111.5 + GRACE - policy.ABORT_TIME))
    assert Kill in kinds(case.at(111.5 + GRACE))


def test_no_sibling_is_waited_for_where_no_code_of_python_runs() -> None:
    case = overdue()
    case.at(111.5)
    assert Abort not in kinds(case.at(112.0))  # it may be about to hear of it
    assert Abort in kinds(case.at(111.5 + policy.ABORT_TIME))


def test_a_lane_that_finishes_after_all_costs_nobody_anything() -> None:
    case = overdue()
    case.in_hand = (Burden(111.2, lane=0),)
    assert case.at(111.5) == [Spare(case.member)]


def test_a_lane_that_is_overdue_alone_is_ended_once_no_other_can_take_anything() -> None:
    case = Case((Burden(101.0, lane=2),))
    assert kinds(case.at(111.0)) == [Dump]
    assert case.at(111.5) == [Evacuate(case.member, 111.5 + GRACE, (2,))]
    assert Abort not in kinds(case.at(111.6))
    case.obeying = True
    assert case.at(111.7) == [Abort(case.member)]


def test_what_it_keeps_is_passed_on_before_it_is_ended() -> None:
    case = Case((Burden(101.0, lane=2),), parked=3)
    assert kinds(case.at(111.0)) == [Dump]
    assert case.at(111.5) == [Evacuate(case.member, 111.5 + GRACE, (2,))]
    case.obeying = True
    assert Abort not in kinds(case.at(111.6))
    case.parked = 0
    assert case.at(111.7) == [Abort(case.member)]


def test_under_tls_nothing_can_be_passed_on() -> None:
    case = Case((Burden(101.0, lane=2),), parked=3, settings=settings(certfile="x"))
    case.at(111.0)
    case.at(111.5)
    case.obeying = True
    assert Abort in kinds(case.at(111.7))


def test_a_worker_without_lanes_is_ended_at_once() -> None:
    case = Case((Burden(101.0, lane=0),), parked=3, settings=settings(threads=1))
    assert kinds(case.at(111.0)) == [Dump]
    assert case.at(111.5) == [Abort(case.member)]


def test_each_lane_has_a_deadline_of_its_own() -> None:
    case = Case((Burden(101.0, 200.0, lane=0), Burden(103.0, lane=1)))
    assert case.at(112.0) == []
    assert case.wake_at is not None
    assert case.wake_at <= 113.0
    assert case.at(113.0) == [Dump(case.member, 10.0, 1)]
