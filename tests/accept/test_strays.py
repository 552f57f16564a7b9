"""Exceptions that come while nothing is in hand: how many of them a worker outlives."""

from __future__ import annotations

import logging
import select
import socket

import pytest

from prefork.accept.acceptor import Exclusive
from prefork.accept.strays import MOST, Strays
from prefork.scoreboard.entry import Lane
from prefork.testing.clock import FakeClock

LOG = logging.getLogger("tests.strays")


class Worker:
    """One that is given strays, on a clock of its own."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.lane = Lane(memoryview(bytearray(8 * 512)).cast("Q"))
        self._strays = Strays(LOG, [self.lane], self.clock)

    def outlives(self, count: int, pause: float) -> bool:
        """Whether it outlives so many, each so many seconds after the one before."""
        for _ in range(count):
            self.clock.advance(pause)
            try:
                self._strays.outlive(OSError(9, "Bad file descriptor"))
            except OSError:
                return False
        return True


@pytest.mark.parametrize("pause", [0.0, 0.001, 0.015, 0.05])
def test_what_never_ends_is_seen_however_slow_the_machine_is(pause: float) -> None:
    # 15 ms is what two cores with a load of eleven were seen to take for each.
    assert not Worker().outlives(3 * MOST, pause)


def test_so_many_are_outlived() -> None:
    worker = Worker()
    assert worker.outlives(MOST, 0.0)
    assert not worker.outlives(1, 0.0)


def test_what_comes_now_and_then_is_outlived_for_ever() -> None:
    assert Worker().outlives(3 * MOST, 0.2)


def test_who_serves_in_between_goes_on() -> None:
    worker = Worker()
    for _ in range(3):
        assert worker.outlives(MOST, 0.0)
        worker.lane.end(worker.lane.begin(), failed=False)


def test_who_fails_in_between_does_not() -> None:
    worker = Worker()
    assert worker.outlives(MOST, 0.0)
    worker.lane.end(worker.lane.begin(), failed=True)
    assert not worker.outlives(1, 0.0)


@pytest.mark.parametrize("steps", [1, 2])
def test_a_change_of_place_that_one_has_interrupted_is_made_whole_the_next_time(steps: int) -> None:
    """The worker would have one more at each change to come, and keep its place for ever."""
    acceptor = Exclusive.__new__(Exclusive)
    with socket.create_server(("127.0.0.1", 0)) as listener, listener.dup() as copy, select.epoll() as epoll:
        before, after = pair = [listener.fileno(), copy.fileno()]
        acceptor._epoll, acceptor._pairs = epoll, [pair]
        for fd in (before, after):
            epoll.register(fd, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        if steps == 2:
            epoll.unregister(before)
        acceptor._stand_behind()
        assert pair == [after, before]
        epoll.unregister(after)
        with pytest.raises(FileNotFoundError):
            epoll.unregister(before)
