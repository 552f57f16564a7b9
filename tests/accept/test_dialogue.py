"""Protocols of lines: a client that is idle hears of a stop, and one that has spoken is answered first."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prefork.accept import dialogue
from prefork.accept.dialogue import Dialogue
from prefork.config.settings import Settings
from prefork.scoreboard.layout import Order
from prefork.testing.client import connect
from prefork.testing.plugin import ServerFactory

WITHIN = 30.0
APP = """\
import time
import prefork


class Echo(prefork.Worker):
    def handle(self, connection, address):
        for line in self.lines(connection):
            if line == b"wait\\n":
                connection.sendall(b"waits\\n")
            while line == b"wait\\n" and not self.stopping:
                time.sleep(0.01)  # it waits for the order to leave
            connection.sendall(line)
"""


class Side(Dialogue):
    """The worker's side of a socket pair, without a worker around it."""

    def __init__(self, **given: Any) -> None:
        self.deadlines: list[float] = []
        stop = os.eventfd(0)
        self._entry: Any = SimpleNamespace(
            obeyed=Order.RUN, stop_fd=stop, extend_deadline=self.deadlines.append, stop=stop
        )
        self._given: Any = SimpleNamespace(settings=Settings.of(given))

    def order(self) -> None:
        self._entry.obeyed = Order.DRAIN
        os.eventfd_write(self._entry.stop_fd, 1)


@pytest.fixture
def side() -> Iterator[Side]:
    made = Side()
    yield made
    os.close(made._entry.stop_fd)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


Pair = tuple[socket.socket, socket.socket]


def test_lines(side: Side, pair: Pair) -> None:
    ours, theirs = pair
    theirs.sendall(b"one\r\ntwo\n\nthr")
    found = side.lines(ours)
    assert [next(found), next(found), next(found)] == [b"one\r\n", b"two\n", b"\n"]
    theirs.sendall(b"ee\nfour")
    theirs.shutdown(socket.SHUT_WR)
    assert list(found) == [b"three\n", b"four"]


@pytest.mark.parametrize("sent", [b"12345678901", b"1234567890\n", b"123456789012\nnext\n"])
def test_a_line_that_is_too_long(side: Side, pair: Pair, sent: bytes) -> None:
    pair[1].sendall(b"123456789\n" + sent)
    found = side.lines(pair[0], limit=10)
    assert next(found) == b"123456789\n"
    with pytest.raises(ValueError, match="a line is longer than 10 bytes"):
        next(found)


def test_what_has_come_is_given_though_an_order_has_come_too(side: Side, pair: Pair) -> None:
    ours, theirs = pair
    theirs.sendall(b"1\n2\n3\n")
    found = side.lines(ours)
    assert next(found) == b"1\n"
    side.order()
    theirs.sendall(b"4\n")
    assert list(found) == [b"2\n", b"3\n", b"4\n"]
    assert not side.readable(ours)
    theirs.sendall(b"5\n")
    assert side.readable(ours)


def test_an_order_ends_the_wait(side: Side, pair: Pair) -> None:
    pair[1].sendall(b"1\n")
    found = side.lines(pair[0])
    assert next(found) == b"1\n"
    timer = threading.Timer(0.05, side.order)
    timer.start()
    assert list(found) == []
    timer.join()


@pytest.mark.parametrize("ordered", [True, False])
def test_who_has_just_connected_may_be_about_to_speak(
    side: Side, pair: Pair, ordered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialogue, "REST", WITHIN)  # whatever holds this process up
    timers = [threading.Timer(0.1, pair[1].sendall, (b"1\n",))]
    if ordered:
        side.order()
    else:
        timers.append(threading.Timer(0.05, side.order))
    for timer in timers:
        timer.start()
    assert list(side.lines(pair[0])) == [b"1\n"]
    for timer in timers:
        timer.join()


@pytest.mark.parametrize("waits", [False, True])
def test_half_a_line_is_waited_for(side: Side, pair: Pair, waits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the order is there when the wait for the rest begins, or comes in it."""
    ours, theirs = pair
    theirs.sendall(b"1\nha")
    monkeypatch.setattr(dialogue, "REST", WITHIN)  # whatever holds this process up
    found = side.lines(ours)
    assert next(found) == b"1\n"
    timers = [threading.Timer(0.1, theirs.sendall, (b"lf\n",))]
    if waits:
        timers.append(threading.Timer(0.05, side.order))
    else:
        side.order()
    for timer in timers:
        timer.start()
    assert next(found) == b"half\n"
    for timer in timers:
        timer.join()
    theirs.sendall(b"never")
    monkeypatch.setattr(dialogue, "REST", 0.05)
    assert list(found) == []


def test_a_timeout(side: Side, pair: Pair) -> None:
    pair[0].settimeout(0.05)
    with pytest.raises(TimeoutError, match="the client said nothing"):
        side.readable(pair[0])


def test_silence_is_the_clients_time_and_not_the_applications(pair: Pair) -> None:
    side = Side(timeout=5)
    pair[1].sendall(b"a")
    assert side.readable(pair[0])
    assert side.deadlines == [float("inf"), 5.0]
    os.close(side._entry.stop_fd)


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "echoes.py").write_text(APP)
    return tmp_path


def test_three_lines_at_once_during_a_reload(prefork_server: ServerFactory, app: Path) -> None:
    """The worker has the first in hand when it is told to leave."""
    server = prefork_server("echoes:Echo", app_dir=app, workers=1)
    with connect(server.address, timeout=WITHIN) as client:
        client.sendall(b"wait\nsecond\nthird\n")
        with client.makefile("rb") as answers:
            assert answers.readline() == b"waits\n"
            server.signal(signal.SIGHUP)
            assert answers.read() == b"wait\nsecond\nthird\n"
    server.wait_for_log("generation 1 serves")
    assert "Traceback" not in server.log()


FORKING = """\
import os
import prefork


class Forking(prefork.Worker):
    def handle(self, connection, address):
        for line in self.lines(connection):
            if (child := os.fork()) == 0:
                continue  # its own way to the end
            os.waitpid(child, 0)
            connection.sendall(line)
"""


@pytest.mark.parametrize("lanes", [{}, {"threads": 2}, {"keepalive": 5}], ids=str)
def test_a_child_that_goes_on_ends_nothing_of_its_parent_s(
    prefork_server: ServerFactory, tmp_path: Path, lanes: dict[str, Any]
) -> None:
    (tmp_path / "forks.py").write_text(FORKING)
    server = prefork_server("forks:Forking", app_dir=tmp_path, workers=1, **lanes)
    with connect(server.address, timeout=WITHIN) as client:
        for line in (b"first\n", b"second\n"):
            client.sendall(line)
            assert client.recv(100) == line
    assert server.stop() == 0


def test_reloads_lose_nobody(prefork_server: ServerFactory, app: Path) -> None:
    """Conversations of three lines at a time, again and again: one ends between two lines, or it is whole."""
    server = prefork_server("echoes:Echo", app_dir=app, workers=2)
    lines = b"first\nsecond\nthird\n"
    until = time.monotonic() + 1.0
    answered = 0
    server.signal(signal.SIGHUP)
    while not answered or time.monotonic() < until:
        began = time.monotonic()
        with connect(server.address, timeout=WITHIN) as client:
            client.sendall(lines)  # with the connection: all of it is there when the worker comes to look
            late = time.monotonic() - began > dialogue.REST / 2  # held up between the two, it may not be waited for
            got = b""
            with contextlib.suppress(*[ConnectionError] if late else []):
                while len(got) < len(lines) and (piece := client.recv(100)):
                    got += piece
            assert got == lines or (late and not got), f"the conversation ended behind {got!r}"
            answered += got == lines
    server.wait_for_log("generation 1 serves")
    assert answered


def test_an_idle_client_does_not_hold_a_stop_up(prefork_server: ServerFactory, app: Path) -> None:
    server = prefork_server("echoes:Echo", app_dir=app, workers=1, graceful_timeout=WITHIN, timeout=2)
    with connect(server.address, timeout=WITHIN) as idle:
        idle.sendall(b"a\n")
        assert idle.recv(100) == b"a\n"
        time.sleep(2.5)  # beyond timeout: it is the client who is silent, and the worker does not hang
        before = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - before < WITHIN - 5  # it is not killed at the end of its grace
        assert idle.recv(100) == b""
    assert "killed" not in server.log()
    assert "has been busy" not in server.log()


@pytest.mark.parametrize("kept", [{"keepalive": 0}, {"keepalive": 75}, {"keepalive": 75, "threads": 2}], ids=str)
def test_a_line_that_crosses_the_end_of_its_conversation_resets_nobody(
    prefork_server: ServerFactory, app: Path, kept: dict[str, Any]
) -> None:
    server = prefork_server("echoes:Echo", app_dir=app, workers=1, **kept)

    def crosses() -> bool:
        """Whether a client can speak on when the worker has ended its side, as long as that lingers."""
        with connect(server.address, timeout=WITHIN) as client:
            client.sendall(b"a\n")
            assert client.recv(100) == b"a\n"
            server.signal(signal.SIGHUP)
            assert client.recv(100) == b""
            try:
                client.sendall(b"b\n")
                client.sendall(b"c\n")
                return client.recv(100) == b""
            except ConnectionError:
                return False

    assert any(crosses() for _ in range(3))  # one that stands still for two seconds is too late
