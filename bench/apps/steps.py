"""The steps that prefork adds to a connection, each timed alone: microseconds as JSON."""

import json
import os
import socket
import time
from collections.abc import Callable

from prefork.scoreboard import layout
from prefork.scoreboard.entry import Lane
from prefork.scoreboard.layout import Scoreboard
from prefork.scoreboard.recorder import FlightRecorder

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
    words = Scoreboard.create(1).entry(0)[layout.LANE :]
    lane = Lane(words)
    recorder = FlightRecorder(words)
    head = b"GET /cart/items?id=7&lang=en HTTP/1.1\r\nHost: shop.example\r\nAccept: */*\r\n\r\n"
    target, query, address = b"/cart/items?id=7&lang=en", "id=7&lang=en", ("192.0.2.17", 5555)

    def nothing() -> None:
        pass

    def note_request() -> None:
        recorder.request(head, "GET", target, query, "192.0.2.17", 3)

    def note_connection() -> None:
        recorder.connection(address)

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
                "the note of a request in the flight recorder": cost(note_request) - call,
                "the note of a connection whose handler says nothing": cost(note_connection) - call,
                "a socket object made and closed, beside its descriptor": wrapped - bare,
                "the look whether a file keeps it open": cost(wrap_and_ask) - wrapped,
            }
        )
    )


if __name__ == "__main__":
    main()
