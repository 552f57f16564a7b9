"""The steps that prefork adds to a connection, each timed alone: microseconds as JSON."""

import json
import os
import socket
import time
from collections.abc import Callable

from prefork.scoreboard import layout
from prefork.scoreboard.entry import Lane
from prefork.scoreboard.layout import Scoreboard

TIMES = 20_000
ROUNDS = 15


def cost(step: Callable[[], object]) -> float:
    """Microseconds of CPU of one call; the least of several rounds is the one that was disturbed least."""
    least = float("inf")
    for _ in range(ROUNDS):
        before = time.process_time()
        for _ in range(TIMES):
            step()
        least = min(least, time.process_time() - before)
    return least / TIMES * 1e6


def main() -> None:
    """Time them."""
    listener = socket.create_server(("127.0.0.1", 0))
    family, kind, protocol, fd = int(listener.family), int(listener.type), listener.proto, listener.fileno()
    lane = Lane(Scoreboard.create(1).entry(0)[layout.LANE :])

    def nothing() -> None:
        pass

    def marks() -> None:
        lane.end(lane.begin(), failed=False)

    def duplicate() -> None:
        os.close(os.dup(fd))

    def wrap() -> None:
        socket.socket(family, kind, protocol, os.dup(fd)).close()

    def wrap_and_ask() -> None:
        connection = socket.socket(family, kind, protocol, os.dup(fd))
        connection.close()
        connection.fileno()

    call = cost(nothing)
    bare = cost(duplicate)
    wrapped = cost(wrap)
    print(
        json.dumps(
            {
                "the marks of a connection in shared memory": cost(marks) - call,
                "a socket object made and closed, beside its descriptor": wrapped - bare,
                "the look whether a file keeps it open": cost(wrap_and_ask) - wrapped,
            }
        )
    )


if __name__ == "__main__":
    main()
