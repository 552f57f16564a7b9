"""Kept connections on their way to a successor: none is lost while it has no room, and nobody is kept awake by that."""

from __future__ import annotations

import array
import contextlib
import os
import socket
import time
from collections.abc import Iterator

import pytest

from prefork.accept.return_queue import ReturnQueue
from prefork.scoreboard.layout import Fate
from prefork.supervisor.event_loop import Loop
from prefork.supervisor.heir import _HEARD, _OFFER, Bequest, _name

FULL = b"\1" * 4096


class Handing:
    """A predecessor, and what a successor gets from it."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.loop = Loop()
        stack.callback(self.loop.close)
        self.queue = ReturnQueue()
        stack.callback(self.queue.close)
        self.bequest = Bequest(self.loop, self.queue)
        stack.callback(self.bequest.close)
        inward, self.heir = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stack.callback(self.heir.close)
        self.heir.settimeout(30)
        with inward, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as offer:
            inward.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    inward.send(FULL)
            offer.settimeout(30)
            offer.connect(_name(os.getpid()))
            socket.send_fds(offer, [_OFFER], [inward.fileno()])
            self.turn(0)
            assert offer.recv(64) == _HEARD
        assert self.bequest.fate() is Fate.HEIR

    def turn(self, seconds: float) -> None:
        self.loop.poll(time.monotonic() + seconds)

    def keep(self, word: bytes) -> None:
        """A worker passes a connection on."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self.queue.inward.sendmsg(
                [word], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [ours.fileno()]))]
            )


@pytest.fixture
def handing() -> Iterator[Handing]:
    with contextlib.ExitStack() as stack:
        yield Handing(stack)


def test_an_heir_without_room_does_not_keep_its_predecessor_awake(handing: Handing) -> None:
    handing.keep(b"one")
    handing.keep(b"two")
    turns, end = 0, time.monotonic() + 0.5
    while time.monotonic() < end:
        handing.turn(0.5)
        turns += 1
    assert turns < 200, "25 are enough, and a loop that never sleeps makes thousands"
    assert len(handing.loop._timers) <= 1  # what grows with each turn


def test_what_waits_for_room_is_carried_over_when_there_is_some(handing: Handing) -> None:
    handing.keep(b"one")
    handing.turn(0)  # it is taken, and the queue is empty from now on
    got = []
    end = time.monotonic() + 30
    while b"one" not in got and time.monotonic() < end:
        with contextlib.suppress(TimeoutError):
            data, fds, _, _ = socket.recv_fds(handing.heir, 8192, 1)
            got.append(data)
            for fd in fds:
                os.close(fd)
        handing.turn(0)
        handing.heir.settimeout(0.05)
    assert got[-1] == b"one"


def test_a_predecessor_whose_heir_is_gone_sleeps(handing: Handing) -> None:
    handing.heir.close()
    handing.keep(b"one")
    handing.keep(b"two")
    handing.turn(1)  # it finds out
    assert handing.bequest.fate() is Fate.CLOSED
    turns, end = 0, time.monotonic() + 0.3
    while time.monotonic() < end:
        handing.turn(0.3)
        turns += 1
    assert turns < 50, "a loop that never sleeps makes thousands"
