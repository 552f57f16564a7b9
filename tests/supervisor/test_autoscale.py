"""The size by the load: quick to grow, slow to shrink, and steady under a load that comes and goes."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.supervisor.autoscale import LOOK, Sample, Sizer, Waits

IDLE = 30.0


@dataclass
class World:
    """Workers that take ``handling`` seconds a connection, and a load in connections a second."""

    sizer: Sizer
    smallest: int
    handling: float = 0.05
    boot: float = 0.05
    now: float = 0.0
    size: int = 0
    ready: list[float] = field(default_factory=list)
    work: float = 0.0
    finished: int = 0
    look_at: float | None = 0.0
    sizes: list[tuple[float, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.size = self.smallest
        self.ready = [0.0] * self.size

    def step(self, rate: float, seconds: float = 0.05) -> None:
        self.now += seconds
        serving = sum(moment <= self.now for moment in self.ready)
        self.work += rate * seconds * self.handling
        done = min(self.work, serving * seconds)
        self.finished += math.ceil(done / self.handling) if done else 0
        busy = min(serving, math.ceil(self.work / seconds)) if self.work else 0
        self.work -= done
        waiting = int(self.work / self.handling)
        if busy == serving and self.look_at is None:
            self.look_at = self.now  # the worker that takes the last idle place says so
        if self.look_at is not None and self.now >= self.look_at:
            sample = Sample(self.size, serving, busy, waiting, self.finished)
            size, self.look_at = self.sizer.observe(sample, self.now)
            self.resize(size)

    def resize(self, size: int) -> None:
        if size != self.size:
            self.sizes.append((self.now, size))
        self.ready += [self.now + self.boot] * max(0, size - self.size)
        self.ready = self.ready[:size]
        self.size = size


def test_it_grows_to_the_largest_within_two_seconds_and_shrinks_to_the_smallest_after_the_idle_time() -> None:
    world = World(Sizer(1, 8, IDLE), 1)
    while world.size < 8:
        world.step(rate=1000)
        assert world.now < 2
    for _ in range(100):
        world.step(rate=1000)
    assert world.size == 8
    world.work = 0
    idle = world.now
    while world.size > 1:
        world.step(rate=0)
        assert world.now < idle + IDLE + 1
    assert world.now >= idle + IDLE - 2 * LOOK
    assert world.look_at is None or world.look_at > world.now


def test_with_a_target_it_grows_when_those_taken_had_waited_for_longer() -> None:
    sizer = Sizer(1, 8, IDLE, queue_time=0.2)
    assert sizer.observe(Sample(1, 1, 1, 9, 0, waited=0.1), 0.0)[0] == 1  # many wait, and none for long
    assert sizer.observe(Sample(1, 1, 1, 9, 5, waited=0.2), 9.0)[0] == 1
    assert sizer.observe(Sample(1, 1, 1, 0, 9, waited=0.25), 9.1)[0] == 2  # kept connections are in no accept queue
    assert sizer.observe(Sample(2, 2, 2, 0, 12, waited=0.25), 9.2)[0] == 4
    assert sizer.observe(Sample(4, 4, 3, 9, 15, waited=0.25), 9.3)[0] == 4  # one is idle
    assert sizer.observe(Sample(4, 4, 4, 9, 18, waited=0.0), 9.4)[0] == 4
    assert sizer.observe(Sample(4, 4, 4, 9, 20, waited=0.3), 9.5)[0] == 5  # in small steps again


def test_with_a_target_a_queue_that_nobody_measures_has_to_stand_for_so_long() -> None:
    sizer = Sizer(1, 8, IDLE, queue_time=0.2)
    assert sizer.observe(Sample(1, 1, 1, 1, 0), 0.0)[0] == 1
    assert sizer.observe(Sample(1, 1, 1, 1, 0), 0.15)[0] == 1
    assert sizer.observe(Sample(1, 1, 1, 0, 1), 0.18)[0] == 1  # it was empty for a moment
    assert sizer.observe(Sample(1, 1, 1, 1, 1), 0.25)[0] == 1
    size, again = sizer.observe(Sample(1, 1, 1, 1, 1), 0.4)
    assert size == 1
    assert again == pytest.approx(0.4 + LOOK)  # it goes on looking
    assert sizer.observe(Sample(1, 1, 1, 1, 1), 0.5)[0] == 2


def test_waits_are_told_of_what_was_taken_since_the_last_look() -> None:
    waits = Waits()
    assert waits.mean({1: (10, 5000)}) is None  # since when is not known
    assert waits.mean({1: (10, 5000), 2: (1, 900)}) is None
    assert waits.mean({1: (12, 5100), 2: (3, 1200)}) == pytest.approx(0.1)
    assert waits.mean({2: (3, 1200)}) is None
    assert waits.mean({2: (4, 1200), 3: (7, 7000)}) == 0.0


def test_at_rest_it_asks_for_no_samples() -> None:
    sizer = Sizer(2, 8, IDLE)
    assert sizer.observe(Sample(2, 2, 0, 0, 0), 100.0) == (2, None)
    assert sizer.observe(Sample(2, 2, 0, 0, 0), 1000.0) == (2, None)


def test_it_waits_for_the_workers_of_the_last_step() -> None:
    sizer = Sizer(1, 64, IDLE)
    size, _ = sizer.observe(Sample(1, 1, 1, 9, 0), 0.0)
    assert size == 2
    assert sizer.observe(Sample(2, 1, 1, 9, 0), 0.1)[0] == 2
    assert sizer.observe(Sample(2, 2, 2, 9, 0), 0.2)[0] == 4
    assert sizer.observe(Sample(4, 4, 4, 9, 0), 0.3)[0] == 8


def test_a_connection_that_waits_while_somebody_is_idle_is_on_its_way() -> None:
    assert Sizer(1, 8, IDLE).observe(Sample(4, 4, 3, 1, 0), 0.0)[0] == 4


def test_it_shrinks_by_no_more_than_were_idle_all_the_time() -> None:
    sizer, now, finished = Sizer(1, 16, IDLE), 0.0, 0
    size = 16
    while now < 10 * IDLE:
        finished += 1
        busy = 5 if int(now) % 10 == 0 else 1  # every ten seconds five are needed
        size, again = sizer.observe(Sample(size, size, busy, 0, finished), now)
        assert size >= 5
        assert again is not None
        now = max(again, now + LOOK)
    assert size == 5


def test_what_happened_unobserved_restarts_the_window() -> None:
    sizer = Sizer(1, 8, IDLE)
    sizer.observe(Sample(8, 8, 0, 0, 10), 0.0)
    size, again = sizer.observe(Sample(8, 8, 0, 0, 10), 0.1)  # all idle: sleep until the window closes
    assert (size, again) == (8, IDLE)
    size, again = sizer.observe(Sample(8, 8, 0, 0, 500), IDLE)  # yet 490 connections have been served meanwhile
    assert size == 8
    assert again is not None
    assert again < IDLE + 1


@pytest.mark.parametrize("pause", [0.15, 0.3, IDLE / 2, 0.9 * IDLE])
def test_a_load_that_comes_now_and_then_keeps_no_worker_that_it_does_not_need(pause: float) -> None:
    """Nothing happens between two looks, and something in every time that nobody looks for."""
    sizer, size, now = Sizer(1, 8, IDLE), 8, 0.0
    while size > 1:
        assert now < 3 * IDLE, "it should have shrunk by now"
        size, again = sizer.observe(Sample(size, size, 0, 0, finished=int(now / pause)), now)
        now = max(again or 0.0, now + LOOK)


@pytest.mark.long
def test_a_simulated_day_of_traffic_does_not_flap() -> None:
    # Two humps a day, noise in every minute, bursts now and then; 5 requests/s to 400/s, 50 ms each.
    dice = random.Random(7)
    world = World(Sizer(2, 32, IDLE), 2)
    day = 24 * 3600
    while world.now < day:
        hour = world.now / 3600
        base = 5 + 200 * max(0.0, math.sin((hour - 7) / 12 * math.pi)) ** 2
        noise = dice.uniform(0.7, 1.3) * (3 if dice.random() < 0.01 else 1)
        until = world.now + 60
        while world.now < until:
            world.step(base * noise, seconds=0.1)
    assert world.work < 50
    hourly: dict[int, list[int]] = {}
    for moment, size in world.sizes:
        hourly.setdefault(int(moment // 3600), []).append(size)
    # Each minute brings another load, so some change is right; to and fro within seconds is not.
    reversals = 0
    for (_, first), (at, second), (then, third) in zip(world.sizes, world.sizes[1:], world.sizes[2:], strict=False):
        if then - at < IDLE / 2 and (second - first) * (third - second) < 0:
            reversals += 1
    assert reversals <= len(world.sizes) // 50, (reversals, len(world.sizes))
    assert max(map(len, hourly.values())) <= 3 * 60, {hour: len(sizes) for hour, sizes in hourly.items()}
    assert max(size for _, size in world.sizes) >= 12
    assert world.size <= 4


@given(
    st.lists(
        st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 3000), st.floats(0.01, 100)),
        max_size=60,
    ),
    st.integers(1, 10),
    st.integers(0, 30),
)
def test_whatever_comes_the_size_stays_within_its_bounds(
    load: list[tuple[int, int, int, float]], smallest: int, more: int
) -> None:
    largest = smallest + more
    sizer, size, now = Sizer(smallest, largest, IDLE), smallest, 0.0
    finished = 0
    for serving, waiting, done, seconds in load:
        now += seconds
        finished += done
        here = min(serving, size)
        size, again = sizer.observe(Sample(size, here, min(here, serving), waiting, finished), now)
        assert smallest <= size <= largest
        assert again is None or again > now
