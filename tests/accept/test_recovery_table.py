"""The recovery's table, what it does with real sockets, and what is remembered of failures in a row."""

from __future__ import annotations

import logging
import os
import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from errno import EAGAIN, EBADF, ECONNABORTED, EINTR, EMFILE, ENFILE, EPERM, EPROTO

import pytest

from prefork import Settings
from prefork.accept.fd_leak import LeakFinder
from prefork.accept.recovery import EXHAUSTION, TABLE, Do, FailureStreak, Finding, Recovery, Rest, Stage
from prefork.net.accept_errors import COUNTED, DEAD_IN_A_ROW, Reaction, lookup
from prefork.scoreboard.entry import Entry
from prefork.scoreboard.events import EventKind, EventsPipe
from prefork.scoreboard.layout import STATE, Order, Scoreboard, State
from prefork.system.backoff import Backoff
from prefork.system.descriptors import SpareDescriptor, readable

PLAIN = Backoff(initial=0.05, factor=2.0, maximum=0.25, jitter=0.0)

# The table.

RESTING = {Stage.WAITING, Stage.EXHAUSTED}


def test_the_table_is_whole() -> None:
    assert set(TABLE) == set(Stage)
    assert all(set(row) == set(Finding) for row in TABLE.values())


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("finding", Finding)
def test_each_step_says_what_it_means(stage: Stage, finding: Finding) -> None:
    step = TABLE[stage][finding]
    # Who waits is told when that is over, and when it is over for descriptors but something else is waited for.
    ends = stage in RESTING and step.stage not in RESTING
    assert step.relief == (ends or (stage is Stage.EXHAUSTED and step.stage is Stage.WAITING))
    assert (step.do is Do.REST) == (finding in {Finding.HINDERED, Finding.EXHAUSTED})
    assert step.do is not Do.REST or step.stage in RESTING
    assert (step.do is None) == (finding in {Finding.ACCEPTED, Finding.RELIEVED})
    assert (step.stage is Stage.EXHAUSTED) == (
        finding is Finding.EXHAUSTED or (stage is Stage.EXHAUSTED and finding is Finding.ENDED)
    )
    if finding is Finding.ENDED:  # other listeners may go on, until their queues are empty
        assert step == (stage, Do.LEAVE, False)
    if finding in {Finding.ACCEPTED, Finding.NOTHING_WAITS}:
        assert step.stage is Stage.CLEAR


# With real sockets.


class Place:
    """A recovery, and what it has to do with."""

    def __init__(self, stack: ExitStack) -> None:
        self.board = Scoreboard.create(1)
        stack.callback(self.board.close)
        self.events = EventsPipe()
        stack.callback(self.events.close)
        go = os.eventfd(1)
        stack.callback(os.close, go)
        self.entry = Entry(self.board, 0, self.events, go, os.getppid())
        self.entry.say_state(State.SERVING)
        self.listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.listener.setblocking(False)
        log = logging.LoggerAdapter(logging.getLogger("test"))
        spare = SpareDescriptor()
        stack.callback(spare.give)
        leaks = LeakFinder(self.entry, log, spare)
        leaks.learn_what_is_usual()
        settings = Settings(backoff_initial=0.05, backoff_max=6.0, backoff_jitter=0.0)
        self.recovery = Recovery(self.entry, settings, log, leaks)
        self._stack = stack

    def fails(self, number: int) -> Do | Rest:
        return self.recovery.decide(OSError(number, "as asked"), self.listener)

    def connects(self) -> None:
        self._stack.enter_context(socket.create_connection(self.listener.getsockname()))
        assert readable(self.listener.fileno(), seconds=30)  # the kernel may have its last ACK to deal with yet

    def told(self) -> list[tuple[EventKind, int]]:
        return [(event.kind, event.value) for event in self.events.read()[0]]

    def errors(self) -> tuple[int, ...]:
        return self.board.view(0).errors

    def state(self) -> State:
        return State(self.entry.words[STATE])


@pytest.fixture
def place() -> Iterator[Place]:
    with ExitStack() as stack:
        yield Place(stack)


@pytest.mark.parametrize("number", [EINTR, ECONNABORTED])
def test_what_passes_is_repeated_at_once_until_it_does_not_pass(place: Place, number: int) -> None:
    place.connects()
    assert [place.fails(number) for _ in range(DEAD_IN_A_ROW)] == [Do.AGAIN] * DEAD_IN_A_ROW
    assert (place.recovery.stage, place.state()) == (Stage.RETRYING, State.SERVING)
    assert place.fails(number) == Rest(0.05, system=False)
    assert (place.recovery.stage, place.state()) == (Stage.WAITING, State.BACKING_OFF)
    place.recovery.over()
    assert (place.recovery.stage, place.state(), place.told()) == (Stage.CLEAR, State.SERVING, [])
    assert place.fails(number) is Do.AGAIN


@pytest.mark.parametrize(("number", "system"), [(EMFILE, False), (ENFILE, True)])
def test_exhaustion_is_told_once_and_so_is_its_end(place: Place, number: int, system: bool) -> None:
    place.board.hold = number  # as the master does
    assert [place.fails(number), place.fails(number)] == [Rest(0.05, system), Rest(0.1, system)]
    assert (place.recovery.exhausted, place.state()) == (True, State.BACKING_OFF)
    place.recovery.rested()
    assert place.state() is State.BACKING_OFF
    place.recovery.relieved()
    assert (place.recovery.stage, place.state()) == (Stage.RETRYING, State.SERVING)
    place.recovery.over()
    place.recovery.over()
    assert place.told() == [(EventKind.EXHAUSTED, number), (EventKind.RELIEVED, number)]
    assert place.recovery.stage is Stage.CLEAR


@pytest.mark.parametrize(
    ("number", "stage"),
    [(ECONNABORTED, Stage.RETRYING), (EPERM, Stage.WAITING), (EAGAIN, Stage.CLEAR)],
)
def test_whatever_else_accept_fails_of_says_that_there_are_descriptors(place: Place, number: int, stage: Stage) -> None:
    place.fails(EMFILE)
    place.fails(number)
    assert place.recovery.stage is stage
    assert place.told() == [(EventKind.EXHAUSTED, EMFILE), (EventKind.RELIEVED, EMFILE)]


def test_a_wait_goes_on_when_what_passes_comes_between(place: Place) -> None:
    assert place.fails(EPERM) == Rest(0.05, system=False)
    assert (place.fails(EPROTO), place.recovery.stage) == (Do.AGAIN, Stage.WAITING)
    assert place.fails(EPERM) == Rest(0.1, system=False)


def test_a_listener_that_listens_is_given_up_when_patience_ends(place: Place) -> None:
    waits = []
    while isinstance(rest := place.fails(EPERM), Rest):
        waits.append(rest.seconds)
    assert rest is Do.LOST
    assert place.recovery.given_up
    assert sum(waits[:-1]) < 10.0 <= sum(waits)


def test_what_only_a_mistake_explains_is_raised(place: Place) -> None:
    place.listener = socket.socket()
    with place.listener, pytest.raises(OSError, match="as asked"):
        place.fails(EBADF)
    assert place.recovery.given_up


@pytest.mark.parametrize("before", [None, EMFILE, EPERM, ECONNABORTED])
@pytest.mark.parametrize("order", [Order.SEAL, Order.DRAIN, Order.QUIT])
def test_who_has_to_leave_and_finds_nobody_waiting_leaves(place: Place, before: int | None, order: Order) -> None:
    if before is not None:
        place.fails(before)
    stage, told = place.recovery.stage, place.told()
    place.entry.obeyed = order
    for number in (EMFILE, EAGAIN, ECONNABORTED, EPERM):
        assert place.fails(number) is Do.LEAVE
    assert (place.recovery.stage, place.told()) == (stage, [])
    assert told == ([(EventKind.EXHAUSTED, EMFILE)] if before == EMFILE else [])


def test_who_drains_goes_on_for_those_who_wait(place: Place) -> None:
    place.connects()
    place.entry.obeyed = Order.DRAIN
    assert place.fails(EMFILE) == Rest(0.05, system=False)
    assert place.fails(ECONNABORTED) is Do.AGAIN
    assert place.state() is State.SERVING  # STOPPING is the worker's to say


def test_a_poll_that_finds_nothing_is_no_failure(place: Place) -> None:
    """Neither when nobody waits nor when a sibling was faster; but when somebody waits and it never ends."""
    for _ in range(3):
        assert place.fails(EAGAIN) is Do.NOTHING
    place.connects()
    assert [place.fails(EAGAIN) for _ in range(DEAD_IN_A_ROW)] == [Do.AGAIN] * DEAD_IN_A_ROW
    assert not any(place.errors())
    place.fails(EAGAIN)
    assert place.errors()[COUNTED.index("EAGAIN")] == 1
    place.fails(ECONNABORTED)
    assert place.errors()[COUNTED.index("ECONNABORTED")] == 1


# What is remembered.


def test_waits_grow() -> None:
    streak = FailureStreak(PLAIN)
    assert (streak.errno, streak.failures, streak.fruitless) == (0, 0, 0)
    assert [streak.wait(EMFILE) for _ in range(5)] == [0.05, 0.1, 0.2, 0.25, 0.25]
    assert (streak.errno, streak.failures) == (EMFILE, 5)


def test_after_a_relief_that_was_none_the_wait_is_no_shorter() -> None:
    streak = FailureStreak(PLAIN)
    streak.wait(EMFILE)
    streak.wait(EMFILE)
    streak.relieved()
    assert (streak.errno, streak.waited_for(EMFILE), streak.failures) == (0, 0.0, 2)
    assert streak.wait(EMFILE) == 0.2


def test_time_counts_for_the_present_failure_alone() -> None:
    streak = FailureStreak(PLAIN)
    streak.wait(EPERM)
    streak.wait(EPERM)
    assert streak.waited_for(EPERM) == pytest.approx(0.15)
    assert streak.waited_for(EMFILE) == 0
    streak.wait(EMFILE)
    assert streak.waited_for(EPERM) == 0
    assert streak.waited_for(EMFILE) == pytest.approx(0.2)  # the waits go on growing


@pytest.mark.parametrize("number", [EMFILE, ENFILE, EPERM, EPROTO, EBADF])
def test_exhaustion_is_of_descriptors_and_memory(place: Place, number: int) -> None:
    place.fails(number)
    assert place.recovery.exhausted == (lookup(number).reaction in EXHAUSTION)
    assert {Reaction.BACK_OFF_WORKER, Reaction.BACK_OFF_SYSTEM} == EXHAUSTION


def test_workers_whose_application_seeds_the_random_module_do_not_wait_in_step() -> None:
    jittery = Backoff(initial=0.25, factor=1.0, maximum=0.25, jitter=0.5)
    waits = set()
    for _ in range(8):
        random.seed(4)
        waits.add(FailureStreak(jittery).wait(EMFILE))
    assert len(waits) == 8
