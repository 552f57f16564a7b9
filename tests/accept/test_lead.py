"""Who waits for the next connection, and when the main thread is told: the rules, without threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from prefork.accept.lead import QUICK, LaneThread, Lead
from prefork.scoreboard.entry import Entry
from prefork.scoreboard.events import EventsPipe
from prefork.scoreboard.layout import Scoreboard

LANES = 3


@dataclass
class Worker:
    """One process: its lead, its lanes, and how often its main thread was roused."""

    lead: Lead
    lanes: list[LaneThread]
    roused: list[int]

    def begin(self, lane: LaneThread) -> None:
        assert self.lead.await_lead(lane)
        assert self.lead.may_wait()
        self.lead.took(lane)


@pytest.fixture
def worker() -> Iterator[Worker]:
    board, events, roused = Scoreboard.create(1, lanes=LANES), EventsPipe(), list[int]()
    entry = Entry(board, 0, events, go=-1, master=os.getppid())
    lead = Lead(entry, entry.spread(LANES, shared=True), lambda: roused.append(1), lambda: None)
    lead.leader = None
    yield Worker(lead, [LaneThread(number) for number in range(LANES)], roused)
    events.close()
    board.close()


def test_the_main_thread_sleeps_as_long_as_nothing_is_in_hand_or_a_lane_waits(worker: Worker) -> None:
    lead, (first, second, _) = worker.lead, worker.lanes
    assert lead.needs_no_look(lead.vacancies)
    worker.begin(first)
    assert worker.roused == [1]  # nobody waits
    assert not lead.needs_no_look(lead.vacancies)
    assert lead.await_lead(second)
    assert lead.needs_no_look(lead.vacancies)
    lead.took(second)
    assert worker.roused == [1, 1]  # and once more


def test_a_stream_of_quick_ones_rouses_it_once(worker: Worker) -> None:
    lead, lane = worker.lead, worker.lanes[0]
    for _ in range(10):
        worker.begin(lane)
        assert not lead.needs_no_look(0)  # as at a look while one is in hand
        lead.done(lane, QUICK // 2)
    assert worker.roused == [1]
    before = lead.vacancies
    worker.begin(lane)
    assert not lead.needs_no_look(before)
    lead.done(lane, QUICK // 2)
    assert lead.needs_no_look(lead.vacancies)  # nothing is in hand: from here on it has to be told
    worker.begin(lane)
    assert worker.roused == [1, 1]


def test_who_waits_in_the_lanes_place_is_told_when_one_does(worker: Worker) -> None:
    lead, lane = worker.lead, worker.lanes[0]
    worker.begin(lane)
    turns = lead.turns
    assert lead.attend(turns)
    worker.roused.clear()
    lead.done(lane, 10 * QUICK)
    assert lead.leader is lane
    assert worker.roused == [1]
    assert not lead.attend(turns)
    lead.took(lane)
    assert not lead.attend(turns)  # another has had it meanwhile


def test_it_is_passed_on_unless_what_is_served_is_quick(worker: Worker) -> None:
    lead, (first, second, third) = worker.lead, worker.lanes
    worker.begin(first)
    assert lead.await_lead(second)
    lead.stand_by(second)
    lead.done(first, 10 * QUICK)
    worker.begin(first)
    assert leader(lead) is second  # who rested
    lead.done(first, QUICK // 2)
    lead.took(second)
    assert leader(lead) is None
    assert lead.await_lead(third)


def leader(lead: Lead) -> LaneThread | None:
    return lead.leader


def test_who_stands_by_when_all_else_is_done_waits_after_all(worker: Worker) -> None:
    """The last one in hand may be done between the leader's look at others and what comes of it: nobody else would."""
    lead, (first, second, _) = worker.lead, worker.lanes
    worker.begin(first)
    assert lead.await_lead(second)
    lead.done(first, QUICK // 2)  # whose lane rests, because this one waits
    lead.stand_by(second)
    assert leader(lead) is second
    assert lead.await_lead(second)
    assert lead.may_wait()


def test_a_lane_that_was_given_the_lead_is_woken_by_whoever_was_interrupted(worker: Worker) -> None:
    lead, (first, second, _) = worker.lead, worker.lanes
    lead.leader, second.rests = second, True  # as between the two steps of `took`
    assert second.asleep.locked()
    lead.recover(first)
    assert not second.asleep.locked()
    assert lead.await_lead(second)
