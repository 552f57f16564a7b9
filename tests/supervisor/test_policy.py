"""Whom the policy forks, and how many: each rule by example. Random facts stand in test_policy_machine."""

import collections
import itertools
import sys
from collections.abc import Callable
from types import FrameType
from typing import Literal

import pytest

from prefork.config.settings import Settings
from prefork.scoreboard.layout import Order
from prefork.supervisor import policy
from prefork.supervisor.cause import Cause, Reason
from prefork.supervisor.death import Death
from prefork.supervisor.goal import Crashes, Goal
from prefork.supervisor.member import Member
from prefork.supervisor.policy import Dump, Kill, Replace, Retire, Spawn
from prefork.system.process import EXHAUSTED, Exit
from tests.support.world import (
    SIGKILL,
    SIGSEGV,
    START,
    World,
    busy,
    clear,
    done,
    incumbent,
    kinds,
    moments,
    serving,
    started,
)

# The first workers.


def test_every_slot_gets_a_worker_at_once() -> None:
    made = started(3)
    assert done(made, Spawn) == [Spawn(0, 0), Spawn(1, 0), Spawn(2, 0)]
    complete = []
    for process in made.booting:
        made.ready(process)
        complete.append(made.goal.ready)
    assert complete == [False, False, True]
    made.turn()
    assert made.wake_at is None  # nothing to wait for


def test_forks_come_in_batches_so_that_exits_are_looked_at_in_between() -> None:
    made = World(Settings(workers=2 * policy.SPAWN_BATCH + 8))
    sizes = []
    while True:
        decision = policy.decide(made.settings, made.goal, made.roster, made.vital, made.now)
        if not decision.actions:
            break
        assert decision.wake_at == made.now
        sizes.append(len(decision.actions))
        for action in decision.actions:
            made._apply(action)
    assert sizes == [policy.SPAWN_BATCH, policy.SPAWN_BATCH, 8]


# Many.


def calls(of: Callable[[], object]) -> int:
    """How many Python functions that calls."""
    count = 0

    def counts(_frame: FrameType, event: str, _arg: object) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(counts)
    try:
        of()
    finally:
        sys.setprofile(before)
    return count


def steps_of_a_reload(workers: int) -> list[int]:
    """What each decision costs, in calls: at rest, while the first worker is replaced, and after one has died."""
    made = serving(workers)
    costs = []

    def act() -> None:
        decision: list[policy.Decision] = []
        given = (made.settings, made.goal, made.roster, made.vital, made.now)
        costs.append(calls(lambda: decision.append(policy.decide(*given))))
        for action in decision[0].actions:
            made._apply(action)

    act()
    made.reload()
    act()
    successor = made.booting[0].member
    act()
    made.roster.ready(successor, made.now)
    act()
    act()
    made.roster.exited(next(member for member in made.roster if member.order is Order.SEAL), Exit(0), served=1, now=1.0)
    act()
    made.roster.exited(made.serving[-1].member, Exit(None, 9), served=1, now=1.0)
    act()
    return costs


def test_what_happens_to_one_costs_the_same_beside_three_and_beside_three_hundred() -> None:
    few, many = steps_of_a_reload(3), steps_of_a_reload(300)
    assert min(few) > 5
    assert many == few


# Fork fails.


def test_a_fork_that_fails_is_tried_again_after_a_growing_time() -> None:
    made = World(Settings(workers=2), fork_fails=True)
    made.turn()
    assert len(done(made, Spawn)) == 2  # decided together; the second is not tried
    assert made.goal.forks.failures == 1
    assert [round(at - START, 3) for at in made.wakes(12.0)] == [0.1, 0.3, 0.7, 1.5, 3.1, 6.3, 11.3, 12.0]
    made.fork_fails = False
    made.advance(5.0)
    assert len(made.booting) == 2
    assert (made.goal.forks.failures, made.goal.forks.held_until) == (0, None)


def test_while_forks_are_held_nobody_is_forked_and_nobody_waits() -> None:
    made = serving(2)
    made.goal.forks.hold()
    made.now += 5.0
    incumbent(made).end(signal=SIGKILL)
    made.reap()
    made.turn()
    assert (kinds(made), made.wake_at) == ([], None)
    made.goal.forks.release()
    made.turn()
    assert done(made, Spawn) == [Spawn(0, 0)]


# Death and respawn.


def test_a_dead_worker_is_replaced_at_once() -> None:
    made = serving(2)
    made.now += 60
    incumbent(made, 1).end(signal=SIGKILL)
    made.reap()
    made.turn()
    assert done(made, Spawn) == [Spawn(1, 0)]


def test_a_slot_whose_workers_die_young_holds_back_longer_and_longer_and_the_others_do_not() -> None:
    made = serving(2)
    waits = []
    for _ in range(11):
        incumbent(made).end(signal=SIGSEGV)
        made.reap()
        made.turn()
        assert made.slot(0).incumbent is None
        began = made.now
        incumbent(made, 1).served = 1
        incumbent(made, 1).end(signal=SIGKILL)
        made.reap()
        made.turn()
        assert made.slot(1).incumbent is not None, "another slot is held back"
        made.ready(incumbent(made, 1))
        for _ in made.wakes(60.0):
            if made.slot(0).incumbent is not None:
                break
        made.turn()
        waits.append(round(made.slot(0).not_before - began, 6))
        assert incumbent(made).member.born == pytest.approx(made.slot(0).not_before)
        made.ready(incumbent(made))
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]


def member(*, ready_at: float | None = 100.0, order: Order = Order.RUN) -> Member:
    return Member(pid=1, slot=0, entry=0, generation=0, born=90.0, ready_at=ready_at, order=order)


def judged(*deaths: Death) -> tuple[int, float, int]:
    """Young deaths in a row, the hold, and young deaths of the server."""
    made = World(Settings(workers=1))
    slot = made.slot(0)
    for death in deaths:
        policy.judge(made.goal, made.roster, death)
    return slot.young_deaths, round(slot.not_before, 6), len(made.goal.failures.young_deaths)


YOUNG = Death(member(ready_at=None), Exit(1), 100.0, 0, successor=False)


def test_young_deaths_add_up() -> None:
    assert judged(YOUNG) == (1, 100.1, 1)
    assert judged(YOUNG, YOUNG) == (2, 100.2, 2)


@pytest.mark.parametrize("order", [Order.RUN, Order.SEAL])
def test_a_worker_that_proved_itself_after_the_hold_clears_the_record(order: Order) -> None:
    proof = Death(member(ready_at=100.3, order=order), Exit(0), 160.0, 5, successor=False)
    assert judged(YOUNG, YOUNG, proof) == (0, 0.0, 2)


def test_a_worker_from_before_that_is_told_to_leave_clears_nothing() -> None:
    older = Death(member(ready_at=99.0, order=Order.SEAL), Exit(0), 160.0, 5, successor=False)
    assert judged(YOUNG, YOUNG, older) == (2, 100.2, 2)


def test_a_worker_from_before_that_is_killed_is_replaced_at_once() -> None:
    older = Death(member(ready_at=99.0), Exit(None, SIGKILL), 100.05, 5, successor=False)
    assert judged(YOUNG, YOUNG, older) == (0, 0.0, 2)


# An exhausted boot.


def test_exhausted_boots_hold_all_forks_longer_and_longer_and_are_no_crash() -> None:
    made = serving(2)
    made.now += 5.0
    for slot in range(2):
        incumbent(made, slot).end(signal=SIGKILL)
    made.reap()
    made.turn()
    holds = []
    for _ in range(4):
        for process in made.booting:
            process.end(EXHAUSTED)
        began = made.now
        made.reap()
        made.advance(10.0)
        assert len(made.booting) == 2
        holds.append(round(made.booting[0].member.born - began, 6))
    assert holds == [0.1, 0.2, 0.4, 0.8]
    assert [made.slot(slot).young_deaths for slot in range(2)] == [0, 0]
    assert not made.goal.failures.young_deaths
    made.ready(made.booting[0])
    made.booting[0].end(EXHAUSTED)
    made.reap()
    assert made.goal.forks.held_until == made.now + 0.1  # and anew, since one has booted


def test_a_first_boot_that_is_exhausted_fails() -> None:
    made = started(2)
    made.booting[0].end(EXHAUSTED)
    made.reap()
    assert made.judge.failure is not None


def test_a_reload_whose_boot_is_exhausted_goes_on_when_it_can() -> None:
    made = reloaded(2)
    made.booting[0].end(EXHAUSTED)
    made.reap()
    made.turn()
    assert made.goal.rolling
    made.calm(10.0, lambda: made.full and not made.goal.rolling)
    assert {process.member.generation for process in made.alive} == {1}


# A crash loop.


def test_so_many_young_deaths_within_the_window_are_a_crash_loop() -> None:
    settings = Settings(crash_limit=3, crash_window=10.0)
    goal = Goal(size=1, smallest=1, largest=1)
    for at in (100.0, 104.0):
        goal.failures.died_young(at)
    assert goal.failures.crashes(settings, 104.0) is Crashes.NONE
    goal.failures.died_young(109.9)
    assert goal.failures.crashes(settings, 109.9) is Crashes.LOOP
    assert goal.failures.crashes(settings, 109.999) is Crashes.LOOP
    assert goal.failures.crashes(settings, 110.0) is Crashes.NONE
    assert goal.failures.young_deaths == collections.deque([104.0, 109.9])


def test_the_master_wakes_for_the_end_of_a_crash_loop() -> None:
    made = serving(2, crash_limit=3, crash_window=60.0)
    crashed = []
    for _ in range(4):
        crashed.append(made.now)
        incumbent(made, 0).end(signal=SIGSEGV)
        made.reap()
        made.advance(2.0)
        made.ready(incumbent(made, 0))

    def looping() -> bool:
        return made.judge.crashes is Crashes.LOOP

    assert looping()
    ends = [at for at in made.wakes(100.0) if looping()][-1]
    assert ends == crashed[1] + 60.0  # three are a loop until the second of the four is old


# The size.


def test_a_larger_size_forks_into_new_slots() -> None:
    made = serving(2)
    made.resize(4)
    made.turn()
    assert done(made, Spawn) == [Spawn(2, 0), Spawn(3, 0)]


def test_a_smaller_size_retires_the_last_slots_and_whoever_starts_there() -> None:
    made = serving(3, graceful_timeout=7.0)
    made.roster.wanted(incumbent(made, 2).member, Reason(Cause.ASKED))
    made.turn()
    going = [made.slot(2).incumbent, made.slot(2).successor]
    made.resize(2)
    made.turn()
    retired = done(made, Retire)
    assert [action.member for action in retired] == going
    assert {(action.order, action.deadline) for action in retired} == {(Order.SEAL, START + 7.0)}
    assert {action.reason for action in retired} == {Reason(Cause.SHRINK)}
    assert len(made.serving) == 2


def test_a_slot_whose_queue_is_not_empty_yet_is_kept_as_if_it_counted() -> None:
    made = serving(3)
    made.goal.keep({2})
    made.resize(2)
    made.turn()
    assert kinds(made) == []
    incumbent(made, 2).served = 1
    incumbent(made, 2).end(signal=SIGKILL)
    made.reap()
    made.turn()
    assert done(made, Spawn) == [Spawn(2, 0)]
    made.goal.let_go(range(100))
    made.turn()
    assert [action.member.slot for action in done(made, Retire)] == [2]


def test_a_crash_is_made_good_although_many_still_leave() -> None:
    """After a shrink from beyond max_workers, those who finish what they have take nobody's place."""
    made = serving(1)
    made.resize(8)
    made.turn()
    for process in made.booting:
        made.ready(process)
    for slot in range(8):
        busy(made, slot)
    made.resize(1)
    made.turn()
    assert len(made.processes) == 8
    clear(made)
    incumbent(made).served = 1
    incumbent(made).end(signal=SIGKILL)
    made.reap()
    made.turn()
    assert done(made, Spawn) == [Spawn(0, 0)]


def test_a_size_that_comes_back_waits_for_room() -> None:
    made = serving(1, graceful_timeout=10.0)
    made.resize(4)
    made.calm(1.0, lambda: made.full)
    for slot in range(4):
        busy(made, slot)
    for size in (1, 4):
        made.resize(size)
        made.turn()
    assert len(made.processes) == 5  # three who leave, the one that stays, and one for the surge
    made.advance(10.0)
    assert len(made.alive) == 4


# Reload.


def reloaded(workers: int, surge: int = 1) -> World:
    made = serving(workers, reload_surge=surge)
    made.now += 5.0
    made.reload()
    made.turn()
    return made


def test_a_reload_goes_slot_by_slot_and_the_old_one_leaves_when_the_new_one_is_ready() -> None:
    made = reloaded(3)
    for slot in range(3):
        old, new = made.slot(slot).incumbent, made.slot(slot).successor
        assert old is not None
        assert new is not None
        assert kinds(made) == ["Spawn"]
        assert done(made, Spawn) == [Spawn(slot, 1)]
        assert old.order is Order.RUN
        made.ready(made.of(new))
        clear(made)
        made.turn()
        assert done(made, Retire) == [Retire(old, Order.SEAL, made.now + 30.0, Reason(Cause.RELOAD))]
        assert done(made, Spawn) == []  # the surge is taken until the old one is gone
        made.of(old).end(0)
        clear(made)
        made.reap()
        made.turn()
    assert made.full
    assert not made.goal.rolling
    assert {process.member.generation for process in made.alive} == {1}


@pytest.mark.parametrize("surge", [1, 2, 3, 5])
def test_no_more_than_the_surge_are_replaced_at_a_time(surge: int) -> None:
    made = reloaded(4, surge)
    at_once = min(surge, 4)
    assert len(done(made, Spawn)) == at_once
    for process in made.booting:
        made.ready(process)
    made.turn()
    assert len(done(made, Retire)) == at_once
    assert len(made.processes) == 4 + at_once
    made.advance(10.0)
    assert len(done(made, Spawn)) == at_once, "the old ones are still there"


def test_the_surge_holds_although_max_workers_leaves_room() -> None:
    made = serving(2, max_workers=8)
    made.reload()
    made.turn()
    made.ready(made.booting[0])
    made.advance(10.0)
    assert len(done(made, Spawn)) == 1
    assert len(made.processes) == 3


def test_a_reload_that_fails_to_boot_leaves_the_old_generation_serving() -> None:
    made = reloaded(3)
    before = made.serving
    made.booting[0].end(4)
    made.reap()
    made.advance(100.0)
    assert made.serving == before
    assert len(done(made, Spawn)) == 1
    assert not made.goal.rolling
    assert done(made, Retire) == []


def test_a_reload_whose_boot_hangs_leaves_the_old_generation_serving() -> None:
    made = serving(2, boot_timeout=5.0)
    made.reload()
    before = made.serving
    made.advance(100.0)
    assert made.serving == before
    assert [kind for kind in kinds(made) if kind != "WakeUp"] == ["Spawn", "Dump", "Abort"]


def kill_boots(made: World, count: int) -> None:
    """Kill so many workers in their boot, one after the other."""
    for _ in range(count):
        made.advance(policy.RESPAWN.maximum)
        made.booting[0].end(signal=SIGKILL)
        made.reap()
        made.turn()


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("way", ["degrade", "exit"])
def test_a_reload_whose_boots_are_killed_one_after_the_other_fails(
    workers: int, way: Literal["degrade", "exit"]
) -> None:
    made = serving(workers, crash_limit=4, crash_window=1000.0, on_crash_loop=way)
    made.reload()
    made.turn()
    before = made.serving
    kill_boots(made, 3)
    assert made.goal.rolling
    kill_boots(made, 1)
    assert (made.goal.rolling, made.failed_reloads) == (False, 1)
    clear(made)
    made.advance(100.0)
    assert made.serving == before
    assert kinds(made) == []
    # The old generation serves as it did: neither degraded, nor a reason to end.
    assert (made.judge.crashes, made.judge.failure) == (Crashes.NONE, None)


def test_boots_that_are_killed_now_and_then_end_no_reload() -> None:
    made = serving(3, crash_limit=2)
    made.reload()
    made.turn()
    for _ in range(3):
        kill_boots(made, 1)
        made.advance(policy.RESPAWN.maximum)
        made.behave()
        made.turn()
        made.behave()
    assert (made.goal.rolling, made.failed_reloads) == (False, 0)
    assert {process.member.generation for process in made.alive} == {1}


def test_boots_of_the_generation_before_that_are_killed_end_no_reload() -> None:
    made = serving(2, crash_limit=3)
    made.reload()
    made.turn()
    kill_boots(made, 2)
    made.reload()
    made.advance(policy.RESPAWN.maximum)
    assert [process.member.generation for process in made.booting] == [1]
    kill_boots(made, 3)
    assert made.goal.rolling
    kill_boots(made, 1)
    assert not made.goal.rolling


def test_a_first_generation_whose_boots_are_killed_one_after_the_other_fails() -> None:
    made = started(1, crash_limit=4)
    kill_boots(made, 3)
    assert made.judge.failure is None
    kill_boots(made, 1)
    assert str(made.judge.failure).endswith("a worker was killed by SIGKILL before it was ready")


def test_reloads_that_fail_are_no_crash_loop() -> None:
    made = serving(2, crash_limit=3, on_crash_loop="exit")
    for _ in range(10):
        made.reload()
        made.turn()
        made.booting[0].end(4)
        made.reap()
    assert made.failed_reloads == 10
    assert (made.judge.crashes, made.judge.failure) == (Crashes.NONE, None)


def test_successors_that_fail_together_are_no_crash_loop() -> None:
    """The first of them ends the reload; those it had beside it are the reload's affair as well, and so are others."""
    made = serving(8, crash_limit=3, on_crash_loop="exit", reload_surge=8, max_recycling=8)
    made.reload()
    made.turn()
    for process in made.booting:
        process.end(4)
    assert len(made.reap()) == 8
    assert made.failed_reloads == 1
    assert (made.judge.crashes, made.judge.failure) == (Crashes.NONE, None)
    for slot in range(8):
        made.roster.wanted(incumbent(made, slot).member, Reason(Cause.MAX_REQUESTS))
    made.advance(1.0)
    for process in made.booting:
        process.end(4)
    made.reap()
    assert (made.judge.crashes, made.judge.failure) == (Crashes.NONE, None)
    assert len(made.serving) == 8


def test_a_reload_is_tried_at_once_where_workers_died_young() -> None:
    made = serving(1)
    for _ in range(5):
        made.advance(policy.RESPAWN.maximum)
        incumbent(made).end(signal=SIGSEGV)
        made.reap()
        made.turn()
    assert made.slot(0).incumbent is None
    made.reload()
    clear(made)
    made.turn()
    assert done(made, Spawn) == [Spawn(0, 1)]


def test_a_good_reload_works_after_one_that_failed() -> None:
    made = reloaded(2)
    made.booting[0].end(4)
    made.reap()
    made.turn()
    made.reload()
    made.calm(10.0, lambda: made.full and not made.goal.rolling)
    assert {process.member.generation for process in made.alive} == {2}


def test_a_second_reload_during_the_first_ends_with_the_last_generation() -> None:
    made = reloaded(2)
    made.ready(made.booting[0])
    made.turn()
    made.reload()
    made.calm(10.0, lambda: made.full and not made.goal.rolling)
    assert {process.member.generation for process in made.alive} == {2}


def test_a_failure_of_the_generation_before_does_not_end_a_reload() -> None:
    made = reloaded(2)
    made.reload()
    made.booting[0].end(4)
    made.reap()
    made.calm(10.0, lambda: made.full and not made.goal.rolling)
    assert {process.member.generation for process in made.alive} == {2}


def test_a_worker_that_boots_is_not_replaced_before_it_is_ready() -> None:
    made = started(2)
    made.ready(made.booting[0])
    made.reload()
    made.turn()
    assert done(made, Spawn)[2:] == [Spawn(0, 1)]


def test_an_empty_slot_has_precedence_over_a_reload() -> None:
    made = reloaded(3, surge=1)
    made.booting[0].end(signal=SIGKILL)
    incumbent(made, 2).end(signal=SIGKILL)
    made.reap()
    clear(made)
    made.turn()
    assert done(made, Spawn)[0] == Spawn(2, 1)
    assert len(made.processes) <= 4


def test_a_place_is_kept_for_a_slot_that_holds_back() -> None:
    made = serving(2, graceful_timeout=100.0)
    for _ in range(2):  # two who finish what they have beyond the size
        made.resize(3)
        made.turn()
        made.ready(made.booting[0])
        busy(made, 2)
        made.resize(2)
        made.turn()
    incumbent(made, 1).end(signal=SIGKILL)  # young
    made.reap()
    made.roster.wanted(incumbent(made, 0).member, Reason(Cause.ASKED))
    clear(made)
    made.turn()
    assert done(made, Spawn) == []  # there is room for one
    assert moments(made, 1.0, Spawn) == [("Spawn", 0.1)]
    assert done(made, Spawn) == [Spawn(1, 0)]


def test_a_successor_that_died_young_is_not_forked_again_at_once() -> None:
    made = serving(1)
    made.roster.wanted(incumbent(made).member, Reason(Cause.ASKED))
    made.turn()
    made.booting[0].end(1)
    made.reap()
    assert moments(made, 1.0, Spawn) == [("Spawn", 0.1)]


# Recycling.


def test_who_asked_first_is_replaced_first() -> None:
    """Or slots whose workers leak all the time would keep those behind them from ever being replaced."""
    made = serving(3)
    for slot in (2, 0, 1):
        made.roster.wanted(incumbent(made, slot).member, Reason(Cause.LEAK))
    for turn in range(6):
        made.turn()
        (successor,) = made.booting
        made.ready(successor)
        if turn < 3:
            made.roster.wanted(successor.member, Reason(Cause.LEAK))
        made.calm(10.0, lambda: len(made.alive) == 3 or bool(made.booting))
    assert [action.slot for action in done(made, Spawn)] == [2, 0, 1, 2, 0, 1]


@pytest.mark.parametrize("recycling", [1, 2, 3])
def test_no_more_than_max_recycling_are_replaced_at_a_time(recycling: int) -> None:
    made = serving(4, max_recycling=recycling, reload_surge=5)
    for slot in range(4):
        made.roster.wanted(incumbent(made, slot).member, Reason(Cause.ASKED))
    made.turn()
    assert done(made, Spawn) == [Spawn(slot, 0) for slot in range(recycling)]
    for process in made.booting:
        made.ready(process)
    made.advance(10.0)
    assert len(done(made, Spawn)) == recycling, "the old ones are still there"
    made.calm(10.0, lambda: made.full)
    assert len(done(made, Spawn)) == 4


def test_the_reason_for_a_replacement_is_the_reason_to_leave() -> None:
    made = serving()
    made.roster.wanted(incumbent(made).member, Reason(Cause.MAX_REQUESTS))
    made.turn()
    made.ready(made.booting[0])
    made.turn()
    assert [action.reason for action in done(made, Retire)] == [Reason(Cause.MAX_REQUESTS)]


def test_while_forks_are_held_nobody_is_replaced() -> None:
    made = serving()
    made.goal.forks.hold()
    made.roster.wanted(incumbent(made).member, Reason(Cause.ASKED))
    made.reload()
    made.turn()
    assert kinds(made) == []


# Age.


def test_a_worker_is_replaced_at_its_age() -> None:
    made = serving(max_age=100.0)
    old = incumbent(made)
    assert moments(made, 101.0, Replace, Spawn) == [("Replace", 100.0), ("Spawn", 100.0)]
    assert done(made, Replace) == [Replace(old.member, Reason(Cause.MAX_AGE))]


def test_the_age_counts_from_ready() -> None:
    made = started(max_age=100.0, boot_timeout=0)
    made.advance(500.0)
    made.ready(incumbent(made))
    assert moments(made, 101.0, Replace) == [("Replace", 100.0)]


def test_jitter_spreads_the_ages_within_its_bounds() -> None:
    made = serving(50, max_age=100.0, max_age_jitter=50.0, max_recycling=60)
    ages = [at for _, at in moments(made, 151.0, Replace)]
    assert len(ages) == 50
    assert 100.0 <= min(ages) < 105.0
    assert 145.0 < max(ages) <= 150.0
    assert max(b - a for a, b in itertools.pairwise(ages)) < 5.0  # no two moments at which many go together


def test_who_is_to_be_replaced_anyway_is_not_noted_again() -> None:
    made = serving(max_age=100.0)
    made.advance(50.0)
    made.roster.wanted(incumbent(made).member, Reason(Cause.MAX_REQUESTS))
    made.advance(100.0)
    assert done(made, Replace) == []


# The limit.


@pytest.mark.parametrize(
    ("size", "largest", "surge", "recycling", "lives"),
    [(4, 4, 1, 1, 5), (4, 4, 3, 1, 7), (4, 4, 1, 2, 6), (2, 8, 1, 1, 9), (9, 8, 1, 1, 10)],
)
def test_how_many_may_live(size: int, largest: int, surge: int, recycling: int, lives: int) -> None:
    made = World(Settings(reload_surge=surge, max_recycling=recycling))
    goal = Goal(size=size, smallest=1, largest=largest)
    assert policy.limit(made.settings, goal, made.roster) == lives


def test_slots_that_still_have_somebody_count_for_the_limit() -> None:
    made = serving(1)
    made.resize(6)
    made.calm(1.0, lambda: made.full)
    for slot in range(6):
        busy(made, slot)
    made.resize(1)
    made.turn()
    assert policy.limit(made.settings, made.goal, made.roster) == 7
    made.behave()
    assert policy.limit(made.settings, made.goal, made.roster) == 2


# What it costs.


def test_vitals_are_read_only_where_they_matter() -> None:
    made = serving(5, timeout=30.0)
    read: list[int] = []

    def vital(member: Member) -> policy.Vital:
        read.append(member.pid)
        return policy.Vital((), obeying=False)

    def decided(at: float) -> list[int]:
        read.clear()
        decision = policy.decide(made.settings, made.goal, made.roster, vital, at)
        made.goal.timing.scan_next(decision.scan_at)
        return list(read)

    made.resize(6)
    made.turn()  # and one that starts
    assert len(decided(made.goal.timing.scan_at)) == 5
    assert decided(made.goal.timing.scan_at - 0.001) == []
    assert len(decided(made.goal.timing.scan_at)) == 5


def test_a_day_without_faults_is_a_quiet_one() -> None:
    made = serving(8, timeout=30.0, max_age=3600.0, max_age_jitter=600.0)
    for _ in made.wakes(86_400.0):
        made.behave()
    replaced = len(done(made, Replace))
    assert 8 * 20 <= replaced <= 8 * 24
    assert not done(made, Kill)
    assert not done(made, Dump)
    assert len(done(made, Spawn)) == len(done(made, Retire)) == replaced
