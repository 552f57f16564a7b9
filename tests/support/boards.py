"""The scoreboard of a server under test, as its master has it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from prefork.net.accept_errors import place
from prefork.scoreboard.layout import PID, STANCE, EntryView, Scoreboard
from prefork.scoreboard.stances import Stance
from prefork.testing import Server
from tests.support.probing import opened


@contextmanager
def board_of(server: Server) -> Iterator[Scoreboard]:
    """The server's scoreboard, mapped here too; to be read."""
    for number, name in opened(server.pid).items():
        if name.startswith("/memfd:prefork-scoreboard"):
            board = Scoreboard.attach(os.open(f"/proc/{server.pid}/fd/{number}", os.O_RDWR | os.O_CLOEXEC))
            break
    else:
        raise AssertionError("the master has no scoreboard")
    try:
        yield board
    finally:
        board.close()


def living(board: Scoreboard) -> list[EntryView]:
    """The entries of all workers that live."""
    return [board.view(entry) for entry in range(board.entries) if board.entry(entry)[PID]]


def wait_until_idle(server: Server, workers: int) -> None:
    """Wait until each of a server's workers waits with nothing in hand, where they have several lanes.

    READY is said just before.
    """
    with board_of(server) as board:
        server.wait_for(lambda: list(board.column(STANCE)).count(Stance.IDLE) == workers, message="all to be idle")


def failures(board: Scoreboard, number: int) -> int:
    """How many accepts of the workers that live have failed with an errno."""
    return sum(view.errors[place(number)] for view in living(board))
