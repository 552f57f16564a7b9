"""What HAProxy's agent-check is told."""

from __future__ import annotations

import pytest

from prefork.scoreboard.layout import Readiness
from prefork.status.agent import Agent, Workload
from prefork.system.record import changed

IDLE = Workload(size=4, idle=4, warm=4, waiting=0, at_once=4)


def settled(load: Workload, readiness: Readiness = Readiness.READY) -> str:
    agent = Agent()
    agent.line(readiness, load, 0.0)
    return agent.line(readiness, load, 100.0)


@pytest.mark.parametrize(
    ("load", "line"),
    [
        (IDLE, "up ready 100% maxconn:16\n"),
        (Workload(size=4, idle=2, warm=4, waiting=0, at_once=4), "up ready 60% maxconn:16\n"),
        (Workload(size=4, idle=0, warm=4, waiting=0, at_once=4), "up ready 20% maxconn:16\n"),
        (Workload(size=4, idle=0, warm=4, waiting=5, at_once=4), "up ready 10% maxconn:16\n"),
        (Workload(size=4, idle=0, warm=4, waiting=5000, at_once=4), "up ready 1% maxconn:16\n"),
        (Workload(size=4, idle=4, warm=0, waiting=0, at_once=4), "up ready 20% maxconn:16\n"),
        (Workload(size=4, idle=4, warm=1, waiting=0, at_once=4), "up ready 40% maxconn:16\n"),
        (Workload(size=4, idle=4, warm=4, waiting=0, at_once=64), "up ready 100% maxconn:256\n"),  # threads
        (Workload(size=4, idle=4, warm=4, waiting=0), "up ready 100%\n"),  # loops, which take what comes
    ],
)
def test_the_weight_is_what_the_workers_can_take(load: Workload, line: str) -> None:
    assert settled(load) == line


def test_state_and_weight_stand_together_and_a_stop_drains() -> None:
    for readiness in (Readiness.DELAYED, Readiness.STOPPING):
        assert settled(IDLE, readiness) == "drain\n"
    assert settled(IDLE, Readiness.STARTING) == "down #starting\n"
    assert settled(IDLE, Readiness.EXHAUSTED) == "down #all workers are out of descriptors or memory\n"
    assert settled(IDLE, Readiness.RELOAD_FAILED) == "down #the last reload has failed\n"


def places(*looks: tuple[float, int, float]) -> list[int]:
    """The maxconn of four workers after each look: at so many seconds, so many served, who took so many seconds."""
    agent = Agent()
    lines = [agent.line(Readiness.READY, changed(IDLE, served=served, busy=busy), now) for now, served, busy in looks]
    return [int(line.partition("maxconn:")[2]) for line in lines]


@pytest.mark.parametrize(("took", "most"), [(0.0, 16), (0.002, 16), (0.025, 12), (0.05, 8), (1.0, 8), (60.0, 8)])
def test_what_is_slow_is_sent_less_ahead(took: float, most: int) -> None:
    assert places((0.0, 100, 100 * took)) == [most]


def test_what_was_served_lately_counts() -> None:
    assert places((0, 1000, 2.0), (1, 1000, 2.0), (600, 1000, 2.0)) == [16, 16, 16]  # nobody came
    slow = [(second, 1000 + 20 * second, 2.0 + second) for second in range(1, 20)]
    found = places((0, 1000, 2.0), *slow)
    assert found[0] == 16
    assert found == sorted(found, reverse=True)
    assert found[-1] == 8


def test_what_an_ended_worker_takes_along_is_no_news() -> None:
    assert places((0, 1000, 2.0), (1, 500, 1.0), (2, 520, 2.0), (3, 1100, 1.5)) == [16, 16, 16, 16]
    assert places((0, 100, 10.0), (1, 50, 5.0), (2, 60, 6.0)) == [8, 8, 8]


def test_the_weight_moves_little_by_little() -> None:
    agent, weights = Agent(), []
    for second in range(20):
        line = agent.line(Readiness.READY, IDLE, float(second))
        weights.append(int(line.split()[2].rstrip("%")))
    assert weights[0] == 1  # a server that has just started
    assert weights == sorted(weights)
    assert weights[-1] == 100
    assert (
        agent.line(Readiness.READY, Workload(size=4, idle=0, warm=4, waiting=0, at_once=4), 20.0)
        == "up ready 69% maxconn:16\n"
    )


USUAL = 0.05


def weights(agent: Agent, took: float, since: int, until: int, *, idle: int = 4) -> list[tuple[int, int]]:
    """Weight and maxconn each second, while each of forty requests a second takes so long."""
    found = []
    for second in range(since, until):
        load = changed(IDLE, idle=idle, served=40 * second, busy=40 * second * took)
        words = agent.line(Readiness.READY, load, float(second)).split()
        found.append((int(words[2].rstrip("%")), int(words[3].partition(":")[2])))
    return found


@pytest.mark.parametrize(
    ("took", "weight", "most"),
    [(0.001, 100, 16), (0.05, 100, 16), (0.0625, 41, 13), (0.1, 6, 8), (0.25, 1, 8), (50.0, 1, 8)],
)
def test_who_takes_longer_than_is_usual_weighs_much_less(took: float, weight: int, most: int) -> None:
    assert weights(Agent(USUAL), took, 0, 60)[-1] == (weight, most)


def test_without_a_usual_time_the_weight_knows_no_time() -> None:
    assert weights(Agent(), 0.25, 0, 60)[-1] == (100, 8)


def test_who_is_slow_is_heard_of_within_seconds_and_so_is_who_is_fast_again() -> None:
    agent = Agent(USUAL)

    def told(since: int, took: float) -> list[int]:
        """The weights of nine seconds, in which forty requests each take so long."""
        found = []
        for second in range(since, since + 9):
            done["served"] += 40
            done["busy"] += 40 * took
            line = agent.line(Readiness.READY, changed(IDLE, **done), float(second))
            found.append(int(line.split()[2].rstrip("%")))
        return found

    done = {"served": 0, "busy": 0.0}
    told(0, 0.02)
    assert told(9, 0.02)[-1] >= 95
    slow = told(18, 0.25)
    assert slow == sorted(slow, reverse=True)
    assert slow[3] <= 10
    assert slow[-1] <= 5
    fast = told(27, 0.02)
    assert fast == sorted(fast)
    assert fast[-1] >= 90


def test_who_is_not_asked_forgets_how_slow_he_was() -> None:
    """Or nobody would find out that he is fast again."""
    agent = Agent(USUAL)
    weights(agent, 0.25, 0, 60)
    load = changed(IDLE, served=40 * 59, busy=40 * 59 * 0.25)
    held = changed(load, idle=3)
    told = [agent.line(Readiness.READY, held, 59.0 + second).split()[2] for second in (1, 30, 600)]
    assert told[1:] == ["1%", "1%"]  # a request in hand is no rest
    told = [agent.line(Readiness.READY, load, 659.0 + second).split()[2] for second in (1, 10, 60)]
    assert [int(word[:-1]) for word in told] == [1, 9, 98]
    soon = changed(load, served=load.served + 4, busy=load.busy + 1.0)
    assert agent.line(Readiness.READY, soon, 719.5).split()[2] == "1%"
