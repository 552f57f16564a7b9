"""What others do in the master's loop may fail: it is told, it goes on, and it ends nobody."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest

from prefork.supervisor.event_loop import Loop
from prefork.supervisor.isolation import REST, Isolated
from prefork.testing import running_script
from prefork.testing.clock import FakeClock
from tests.support.probing import LOGGING


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def loop(clock: FakeClock) -> Iterator[Loop]:
    made = Loop(clock)
    yield made
    made.close()


@pytest.fixture
def isolated(loop: Loop, caplog: pytest.LogCaptureFixture) -> Isolated:
    caplog.set_level(logging.ERROR, "prefork")
    return Isolated(loop, "the mayfly")


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


class Failing:
    """Fails so often, and then works."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1
        if self.calls <= self.times:
            raise (SystemExit if self.calls % 2 else ZeroDivisionError)("as asked")


def turn(loop: Loop, clock: FakeClock, seconds: float) -> None:
    """Let time pass, in steps that are no freeze, and the loop turn."""
    end = clock.monotonic() + seconds
    while clock.monotonic() < end:
        loop.poll(clock.monotonic())
        clock.advance(min(0.5, end - clock.monotonic()))
    loop.poll(clock.monotonic())


def test_a_descriptor_whose_callback_fails_rests_longer_each_time(
    loop: Loop, isolated: Isolated, clock: FakeClock, ends: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    callback = Failing(3)
    isolated.register(ends[0], callback)
    os.write(ends[1], b"x")  # readable all the time
    for calls in (1, 2, 3):
        loop.poll(clock.monotonic())
        loop.poll(clock.monotonic())
        assert callback.calls == calls
        assert ends[0] in loop.descriptors, "a child has to close it all the same"
        turn(loop, clock, REST.delay(calls - 1, 0.0) - 0.25)
        assert callback.calls == calls
        turn(loop, clock, 0.25)
    loop.poll(clock.monotonic())
    assert callback.calls == 4
    assert [record.message.splitlines()[0] for record in caplog.records] == ["the mayfly failed, and goes on:"] * 2
    assert "ZeroDivisionError: as asked" in caplog.records[1].message


def test_a_descriptor_that_rests_can_be_given_back(
    loop: Loop, isolated: Isolated, clock: FakeClock, ends: tuple[int, int]
) -> None:
    callback = Failing(9)
    isolated.register(ends[0], callback)
    os.write(ends[1], b"x")
    loop.poll(clock.monotonic())
    isolated.unregister(ends[0])
    assert ends[0] not in loop.descriptors
    turn(loop, clock, 3.0)
    assert callback.calls == 1


def test_a_callback_that_gives_its_descriptor_back_and_fails_is_forgotten(
    loop: Loop, isolated: Isolated, clock: FakeClock, ends: tuple[int, int]
) -> None:
    calls = []

    def callback() -> None:
        calls.append(1)
        isolated.unregister(ends[0])
        raise ZeroDivisionError

    isolated.register(ends[0], callback)
    os.write(ends[1], b"x")
    turn(loop, clock, 3.0)
    assert calls == [1]


def test_a_deadline_whose_callback_fails_comes_again_until_it_has_been(
    loop: Loop, isolated: Isolated, clock: FakeClock
) -> None:
    callback = Failing(2)
    isolated.call_later(1.0, callback)
    turn(loop, clock, 1.0)
    assert callback.calls == 1
    turn(loop, clock, 3.0)
    assert callback.calls == 3
    turn(loop, clock, 60.0)
    assert callback.calls == 3


def test_a_deadline_that_comes_again_can_be_cancelled(loop: Loop, isolated: Isolated, clock: FakeClock) -> None:
    callback = Failing(9)
    timer = isolated.call_later(0.0, callback)
    turn(loop, clock, 0.0)
    timer.cancel()
    turn(loop, clock, 5.0)
    assert callback.calls == 1


def test_a_chain_that_fails_after_its_next_link_stays_one(loop: Loop, isolated: Isolated, clock: FakeClock) -> None:
    calls = []

    def look() -> None:
        calls.append(clock.monotonic())
        isolated.call_later(1.0, look)
        raise ZeroDivisionError

    isolated.call_later(1.0, look)
    turn(loop, clock, 10.0)
    assert len(calls) == 10


WINDOW = """
import os, sys, time
from prefork import Master, Settings, Worker
from prefork.supervisor.service import Service

class Bad(Service):
    def attach(self, server):
        self.reader, writer = os.pipe()
        os.write(writer, b"x")
        server.loop.register(self.reader, self.fail)
        server.loop.call_later(0.05, self.fail)
        server.loop.on_thaw(lambda seconds: self.fail())
    def notify(self, notification):
        raise SystemExit(7)
    def fail(self):
        raise RuntimeError("a service that is broken")
    def save(self):
        raise RuntimeError("nothing to save")
    def detach(self):
        raise RuntimeError("no end either")

class Quiet(Worker):
    def handle(self, connection, address):
        connection.sendall(b"ok")

sys.exit(Master(Quiet, Settings(bind=("127.0.0.1:0",), workers=1, control="off"), services=[Bad()]).run())
"""


def test_a_window_in_which_everything_fails_harms_nobody() -> None:
    with running_script(LOGGING + WINDOW) as server:
        server.wait_for_log("a service that is broken")
        before = server.cpu_seconds()
        server.signal(1)
        server.wait_for_log("generation 1 serves")
        assert server.cpu_seconds() - before < 2.0
        assert server.stop() == 0
