"""Each embedded server as its example runs it: it serves, outlives a worker, and loses nobody to a reload or a stop."""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from collections.abc import Iterator

from prefork.testing import Load, Server, burst, connect
from prefork.testing.exchange import parse_http
from prefork.testing.plugin import ServerFactory
from prefork.testing.processes import kill
from tests.support.embed.servers import Subject, each, serve
from tests.support.figures import count

KEEP_ALIVE = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
SLOW = b"GET /?wait=0.5 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
SLOW_KEEP_ALIVE = b"GET /?wait=0.5 HTTP/1.1\r\nHost: localhost\r\n\r\n"


def body(client: socket.socket) -> bytes:
    """The body of the next answer on a connection."""
    data = b""
    while (reply := parse_http(data)) is None or not whole(without_interim(data)):
        piece = client.recv(65536)
        if not piece:
            break
        data += piece
    assert reply is not None, data
    return reply.body


def without_interim(data: bytes) -> bytes:
    """What comes behind the answers that are none (RFC 9110, 15.2); some servers say twice that one may go on."""
    while data.startswith(b"HTTP/1.1 1"):
        _, _, data = data.partition(b"\r\n\r\n")
    return data


def whole(data: bytes) -> bool:
    """Whether an answer has come to its end, which it says in one of two ways."""
    head, _, rest = data.partition(b"\r\n\r\n")
    if b"chunked" in head.lower():
        return rest.endswith(b"0\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return len(rest) >= int(length.partition(b":")[2])


def reload(server: Server) -> None:
    """Replace all workers and wait until those who were replaced are gone."""
    end = len(server.log())
    server.signal(signal.SIGHUP)
    server.wait_for_log(r"generation \d+ serves", after=end)
    server.wait_for(lambda: len(server.workers()) == 2, message="those who were replaced to be gone")


@each()
def test_both_workers_serve_and_one_outlives_the_other(prefork_server: ServerFactory, subject: Subject) -> None:
    server, wanted = serve(prefork_server, subject), count("embedded-requests", least=200)
    with Load(server.address, clients=8) as load:
        # Who is awake takes what comes: where others use the machine, that may be one of the two for a while.
        load.wait_for(lambda tally: tally.answered >= wanted and len(tally.bodies) == 2)
    assert load.tally.lost == 0, load.tally
    victim = server.workers()[0]
    with Load(server.address, clients=8) as load:
        kill(victim)
        server.wait_for(lambda: len(server.workers()) == 2 and victim not in server.workers())
        load.wait_for(lambda tally: tally.answered > 50)
    assert load.tally.lost <= 8, load.tally  # what it had in hand: no more than there are clients


@each()
def test_reloads_and_a_stop_lose_nobody(prefork_server: ServerFactory, subject: Subject) -> None:
    """Nor do they wait for a connection that is merely kept alive, or cut one short on which a request is in hand."""
    server = serve(prefork_server, subject, reload_surge=2)
    with contextlib.ExitStack() as stack:
        idle, asking = (stack.enter_context(connect(server.address)) for _ in range(2))
        idle.sendall(KEEP_ALIVE)
        assert int(body(idle)) in server.workers()
        asking.sendall(SLOW_KEEP_ALIVE)
        with Load(server.address, clients=8) as load:
            for _ in range(count("embedded-reloads")):
                reload(server)  # graceful_timeout would be 30 s, and end with a kill
            load.wait_for(lambda tally: tally.answered > 50)
        assert load.tally.lost == 0, load.tally
        assert int(body(asking))
        assert idle.recv(1) == b""
    waiting = burst(server.address, 2, payload=SLOW)
    before = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - before < 20, "somebody was waited for until the deadline"
    assert waiting.wait().answered == 2, waiting.tally
    assert "killed" not in server.log()
    assert server.survivors() == []
    for complaint in complaints(server):
        raise AssertionError(complaint)


def complaints(server: Server) -> Iterator[str]:
    """What no server has reason to write in the test."""
    for line in server.log().splitlines():
        if any(word in line for word in ("Traceback", "ERROR", "CRITICAL", "Exception", "never retrieved")):
            yield line
