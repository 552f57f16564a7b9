"""Whom the policy asks to leave, takes for hung, kills, and when: each rule by example."""

import pytest

from prefork.scoreboard.layout import Order
from prefork.supervisor.cause import Cause, Reason
from prefork.supervisor.policy import (
    ABORT_TIME,
    DUMP_TIME,
    Abort,
    AbortAgain,
    AskWhy,
    Dump,
    Kill,
    Retire,
    Spare,
    Spawn,
    TellWhy,
    WakeUp,
)
from tests.support.world import SIGKILL, SOON, START, busy, clear, done, incumbent, kinds, moments, serving, started

# A boot that hangs.


def test_a_boot_that_hangs_is_shown_aborted_and_killed() -> None:
    made = started(boot_timeout=5.0)
    incumbent(made).stubborn = True
    assert moments(made, 8.0, Dump, Abort, Kill) == [
        ("Dump", 5.0),
        ("Abort", 5.0 + DUMP_TIME),
        ("Kill", 5.0 + DUMP_TIME + ABORT_TIME),
    ]
    assert done(made, Dump)[0].seconds == 5.0
    assert made.deaths[0].boot_failed
    assert made.judge.failure is not None


def test_a_boot_that_hangs_ends_by_the_abort() -> None:
    made = started(boot_timeout=5.0)
    made.advance(6.0)
    assert [kind for kind in kinds(made) if kind in {"Dump", "Abort", "Kill"}] == ["Dump", "Abort"]
    assert made.deaths[0].boot_failed


def test_a_boot_that_ends_while_its_tracebacks_are_taken_is_spared() -> None:
    made = started(boot_timeout=5.0)
    made.advance(5.2)
    made.ready(incumbent(made))
    assert moments(made, 100.0, Spare, Abort) == [("Spare", 0.3)]


def test_without_boot_timeout_a_boot_may_take_for_ever() -> None:
    made = started(boot_timeout=0)
    assert made.advance(10_000.0) == 1  # the end of the time given; no wake
    assert kinds(made) == ["Spawn"]


# A handler that hangs.


def test_a_hang_is_shown_aborted_and_killed() -> None:
    made = serving(timeout=30.0)
    made.advance(7.0)
    busy(made).stubborn = True
    assert moments(made, 40.0, Dump, Abort, Kill, Spawn) == [
        ("Dump", 30.0),
        ("Abort", 30.0 + DUMP_TIME),
        ("Kill", 30.0 + DUMP_TIME + ABORT_TIME),
        ("Spawn", 30.0 + DUMP_TIME + ABORT_TIME),
    ]
    assert done(made, Dump)[0].seconds == 30.0


def test_who_has_not_heard_that_it_is_aborted_is_told_again() -> None:
    made = serving(timeout=30.0)
    busy(made).stubborn = True
    made.advance(30.0 + DUMP_TIME + SOON)
    assert len(done(made, Abort)) == 1
    found = moments(made, ABORT_TIME + 1.0, AbortAgain, Kill)
    assert [kind for kind, _ in found] == ["AbortAgain"] * 6 + ["Kill"]
    assert [at for _, at in found] == pytest.approx([0.01, 0.03, 0.07, 0.15, 0.31, 0.63, 1.0], abs=0.002)


def test_an_idle_worker_is_healthy_for_ever() -> None:
    made = serving(4, timeout=30.0)
    made.advance(100_000.0)
    assert kinds(made) == []


def test_a_server_at_rest_wakes_once_in_timeout() -> None:
    made = serving(4, timeout=30.0)
    made.advance(1.0)
    assert made.advance(3000.0) in {100, 101}


def test_without_timeout_nothing_is_a_hang_and_nothing_wakes() -> None:
    made = serving(4, timeout=0)
    busy(made)
    assert made.advance(100_000.0) == 1
    assert kinds(made) == []


@pytest.mark.parametrize("after", [0.0, 0.001, 15.0, 29.999])
def test_a_hang_is_found_at_its_moment_wherever_it_begins_between_two_wakes(after: float) -> None:
    made = serving(2, timeout=30.0)
    made.advance(after)
    busy(made, 1)
    assert moments(made, 31.0, Dump) == [("Dump", 30.0)]


def test_a_busy_server_is_looked_at_when_the_oldest_connection_may_be_overdue() -> None:
    made = serving(3, timeout=30.0)
    for slot in range(3):
        made.advance(5.0)
        busy(made, slot)
    assert moments(made, 31.0, Dump) == [("Dump", 20.0), ("Dump", 25.0), ("Dump", 30.0)]


def test_many_short_connections_are_no_hang() -> None:
    made = serving(timeout=2.0)
    for _ in range(100):
        busy(made)
        made.advance(1.9)
    assert kinds(made) == []


def test_a_slow_worker_is_asked_once_and_goes_on() -> None:
    made = serving(timeout=10.0, slow_log=0.5)
    process = busy(made)
    assert moments(made, 9.0, AskWhy, TellWhy, Dump) == [("AskWhy", 5.0), ("TellWhy", 5.0 + DUMP_TIME)]
    process.busy_since = None
    assert moments(made, 20.0, AskWhy, TellWhy, Dump) == []
    busy(made)
    assert moments(made, 9.0, AskWhy, TellWhy, Dump) == [("AskWhy", 5.0), ("TellWhy", 5.0 + DUMP_TIME)]


def test_a_worker_that_hangs_was_slow_before() -> None:
    made = serving(timeout=10.0, slow_log=0.98)
    busy(made)
    assert moments(made, 12.0, AskWhy, TellWhy, Dump, Abort) == [
        ("AskWhy", 9.8),
        ("Dump", 10.0),
        ("Abort", 10.0 + DUMP_TIME),
    ]


def test_who_has_asked_for_time_is_slow_by_that() -> None:
    made = serving(timeout=10.0, slow_log=0.5)
    busy(made).asked = START + 100.0
    assert moments(made, 99.0, AskWhy, Dump) == [("AskWhy", 50.0)]


def test_a_worker_that_finishes_while_its_tracebacks_are_taken_is_spared_and_looked_at_again() -> None:
    made = serving(timeout=2.0)
    busy(made)
    made.advance(2.1)
    incumbent(made).busy_since = None
    made.advance(0.1)
    busy(made)  # and hangs again
    assert moments(made, 10.0, Dump, Spare, Abort, Kill) == [
        ("Spare", DUMP_TIME - 0.2),
        ("Dump", 2.0),
        ("Abort", 2.0 + DUMP_TIME),
    ]


def test_a_worker_that_hangs_again_while_it_is_passed_over_is_found_at_its_moment() -> None:
    made = serving(2, timeout=2.0)
    busy(made, 0)
    made.advance(0.3)
    busy(made, 1)
    made.advance(1.8)  # the first has been dumped
    incumbent(made, 0).busy_since = None
    made.advance(0.05)
    busy(made, 0)  # and at the scan for the second it is passed over
    again = made.of(made.slot(0).incumbent).member
    moments(made, 10.0)
    found = [
        round(at - START, 6) for action, at in zip(made.log, made.times, strict=True) if action == Dump(again, 2.0)
    ]
    assert found == [2.0, 4.15]


def test_a_worker_with_several_in_hand_is_spared_when_the_one_that_hung_is_done() -> None:
    """It is busy since the oldest of them, which is younger now and yet began before the tracebacks were asked for."""
    made = serving(timeout=10.0)
    process = busy(made)
    made.advance(10.1)
    process.busy_since = START + 6.0
    assert moments(made, 10.0, Spare, Dump, Abort) == [
        ("Spare", DUMP_TIME - 0.1),
        ("Dump", 5.9),
        ("Abort", 5.9 + DUMP_TIME),
    ]


def test_a_worker_that_is_told_to_leave_may_hang_too() -> None:
    made = serving(2, timeout=3.0, graceful_timeout=100.0)
    busy(made, 1)
    made.resize(1)
    assert moments(made, 5.0, Retire, Dump, Abort) == [("Retire", 0.0), ("Dump", 3.0), ("Abort", 3.0 + DUMP_TIME)]


# More time.


def test_a_handler_gets_the_time_that_it_asks_for() -> None:
    made = serving(timeout=2.0)
    process = busy(made)
    made.advance(1.0)
    process.asked = made.now + 50.0
    assert moments(made, 60.0, Dump, Abort) == [("Dump", 50.0), ("Abort", 50.0 + DUMP_TIME)]


def test_asking_for_less_than_timeout_takes_nothing_away() -> None:
    made = serving(timeout=30.0)
    process = busy(made)
    process.asked = made.now + 1.0
    assert moments(made, 31.0, Dump) == [("Dump", 30.0)]


def test_a_handler_may_ask_while_its_tracebacks_are_taken() -> None:
    made = serving(timeout=2.0)
    process = busy(made)
    made.advance(2.1)
    process.asked = made.now + 50.0
    assert moments(made, 60.0, Spare, Dump, Abort) == [
        ("Spare", 0.4),
        ("Dump", 50.0),
        ("Abort", 50.0 + DUMP_TIME),
    ]


# A freeze of the master, or of everything.


def test_a_freeze_starts_a_handler_s_time_anew() -> None:
    made = serving(timeout=30.0)
    busy(made)
    made.advance(29.0)
    made.freeze(100.0)
    assert moments(made, 31.0, Dump) == [("Dump", 30.0)]


def test_a_freeze_starts_a_boot_anew() -> None:
    made = started(boot_timeout=10.0)
    made.advance(9.0)
    made.freeze(100.0)
    assert moments(made, 11.0, Dump) == [("Dump", 10.0)]


def test_a_freeze_between_the_tracebacks_and_the_abort_aborts_nobody_who_goes_on() -> None:
    made = serving(timeout=30.0)
    process = busy(made)
    made.advance(30.1)
    made.freeze(100.0)
    made.turn()
    process.busy_since = made.now - 50.0  # another connection, taken while the master was frozen
    assert moments(made, 10.0, Spare, Abort) == [("Spare", DUMP_TIME)]


def test_a_freeze_between_the_abort_and_the_kill_gives_the_abort_its_time() -> None:
    made = serving(timeout=30.0)
    busy(made).stubborn = True
    made.advance(30.0 + DUMP_TIME + 0.1)
    made.freeze(100.0)
    assert moments(made, 2.0, Kill) == [("Kill", ABORT_TIME)]


def test_a_freeze_moves_the_deadlines_to_leave() -> None:
    made = serving(2, graceful_timeout=10.0)
    busy(made, 1)
    made.resize(1)
    made.advance(9.0)
    made.freeze(100.0)
    assert moments(made, 2.0, Kill) == [("Kill", 1.0)]


def test_a_freeze_moves_the_deadline_of_the_server_s_end() -> None:
    made = serving()
    busy(made)
    made.stop(Order.QUIT, 2.0)
    made.advance(1.0)
    made.freeze(100.0)
    assert moments(made, 2.0, Kill) == [("Kill", 1.0)]


# Told to leave.


def test_a_worker_that_does_not_hear_is_reminded_less_and_less_and_killed_at_its_deadline() -> None:
    made = serving(2, graceful_timeout=5.0)
    made.resize(1)
    found = moments(made, 6.0, Retire, WakeUp, Kill)
    assert found[0] == ("Retire", 0.0)
    assert found[-1] == ("Kill", 5.0)
    woken = [at for kind, at in found if kind == "WakeUp"]
    assert woken == pytest.approx([0.01, 0.03, 0.07, 0.15, 0.31, 0.63, 1.27, 2.27, 3.27, 4.27])


def test_a_worker_that_has_heard_is_left_alone_until_its_deadline() -> None:
    made = serving(2, graceful_timeout=5.0)
    made.resize(1)
    made.turn()
    for process in made.alive:
        process.obeying = process.member.order is not Order.RUN
    assert moments(made, 6.0, WakeUp, Kill) == [("Kill", 5.0)]
    assert made.advance(100.0) == 1


def test_a_worker_that_leaves_in_time_is_not_killed() -> None:
    made = serving(2, graceful_timeout=5.0)
    made.resize(1)
    made.advance(4.0)
    made.behave()
    made.advance(100.0)
    assert done(made, Kill) == []
    assert len(made.processes) == 1


def test_nobody_is_killed_twice() -> None:
    made = serving(1, graceful_timeout=5.0, timeout=1.0)
    busy(made).stubborn = True
    made.advance(1.0 + DUMP_TIME + 0.5)  # aborted, and about to be killed for it
    made.stop(Order.QUIT, 0.0)
    made.turn()
    made.turn()
    assert len(done(made, Kill)) == 1


def test_who_is_killed_at_its_deadline_is_asked_for_nothing_more() -> None:
    made = started(boot_timeout=5.0)
    made.stop(Order.QUIT, 5.0)
    assert moments(made, 6.0, Kill, Dump, Abort) == [("Kill", 5.0)]


# The end.


@pytest.mark.parametrize("order", [Order.SEAL, Order.DRAIN, Order.QUIT])
def test_everybody_is_told_to_leave_and_killed_at_the_deadline(order: Order) -> None:
    made = serving(3, timeout=0)
    made.roster.wanted(incumbent(made).member, Reason(Cause.ASKED))
    made.turn()
    clear(made)
    made.stop(order, 4.0)
    found = moments(made, 5.0, Retire, Kill, Spawn)
    assert found == [("Retire", 0.0)] * 4 + [("Kill", 4.0)] * 4
    assert {(action.order, action.deadline, action.reason) for action in done(made, Retire)} == {
        (order, START + 4.0, Reason(Cause.STOP))
    }


def test_nobody_is_forked_while_the_server_stops() -> None:
    made = serving(2)
    made.stop(Order.DRAIN, 10.0)
    made.turn()
    incumbent_then_gone = made.alive[0]
    incumbent_then_gone.end(signal=SIGKILL)
    made.reap()
    made.roster.wanted(made.alive[0].member, Reason(Cause.ASKED))
    made.advance(5.0)
    assert done(made, Spawn) == []


def test_a_stronger_order_is_told_to_those_who_have_a_weaker_one() -> None:
    made = serving(2)
    made.stop(Order.DRAIN, 30.0)
    made.turn()
    made.stop(Order.QUIT, 2.0)
    made.turn()
    assert [action.order for action in done(made, Retire)] == [Order.DRAIN] * 2 + [Order.QUIT] * 2
    assert moments(made, 3.0, Kill) == [("Kill", 2.0)] * 2


def test_the_second_interrupt_ends_it_at_once() -> None:
    """The order is the same, the deadline sooner than the one that the workers were given."""
    made = serving(2)
    made.stop(Order.QUIT, 30.0)
    made.advance(1.0)
    made.stop(Order.QUIT, 0.0)
    made.turn()
    assert len(done(made, Kill)) == 2


def test_the_deadline_of_the_end_counts_for_those_who_were_leaving_before() -> None:
    made = serving(2, graceful_timeout=100.0)
    made.resize(1)
    made.turn()
    made.stop(Order.SEAL, 5.0)
    assert moments(made, 6.0, Kill) == [("Kill", 5.0)] * 2


def test_a_deadline_to_leave_that_is_sooner_than_the_end_s_counts() -> None:
    made = serving(2, graceful_timeout=5.0)
    made.resize(1)
    made.turn()
    made.stop(Order.DRAIN, 50.0)
    assert moments(made, 6.0, Kill) == [("Kill", 5.0)]


def test_a_hang_in_the_end_is_shown_too() -> None:
    made = serving(timeout=3.0)
    busy(made)
    made.stop(Order.DRAIN, 100.0)
    assert moments(made, 10.0, Dump, Abort, Kill) == [("Dump", 3.0), ("Abort", 3.0 + DUMP_TIME)]


def test_a_worker_that_boots_is_told_as_well() -> None:
    made = started(2)
    made.stop(Order.QUIT, 2.0)
    assert moments(made, 3.0, Retire, Kill) == [("Retire", 0.0)] * 2 + [("Kill", 2.0)] * 2
