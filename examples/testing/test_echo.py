"""Tests of a server, here `examples/echo.py`, as a project that uses prefork has them in its own suite.

Run them with ``pytest examples/testing``. `docs/testing.md` explains them.
"""

import errno
import signal
from pathlib import Path

import pytest

from prefork.testing import Load, Outcome, Server, burst, connect, request
from prefork.testing.faults import first, unavailable
from prefork.testing.plugin import ServerFactory
from prefork.testing.processes import frozen, kill, limited_descriptors

EXAMPLES = Path(__file__).resolve().parent.parent
LINE = b"hello\n"


@pytest.fixture
def server(prefork_server: ServerFactory) -> Server:
    """The echo server on a port of its own, with two workers."""
    return prefork_server("echo:Echo", app_dir=EXAMPLES, workers=2)


def test_a_line_comes_back(server: Server) -> None:
    """One request, and what became of it."""
    answer = request(server.address, LINE, expect=LINE)
    assert answer.outcome is Outcome.ANSWERED, answer


def test_a_reload_loses_nobody(server: Server) -> None:
    """Four clients go on asking while every worker is replaced."""
    before = server.workers()
    with Load(server.address, clients=4, payload=LINE, expect=LINE) as load:
        server.signal(signal.SIGHUP)
        server.wait_for_log("generation 1 serves")
        server.wait_for(lambda: not set(before) & set(server.workers()))
    assert load.tally.answered > 0
    assert load.tally.lost == 0, load.tally


def test_a_stop_answers_all_who_wait(server: Server) -> None:
    """Fifty clients have connected, two workers serve them, and the server is asked to stop."""
    waiting = burst(server.address, 50, payload=LINE, expect=LINE)
    assert server.stop() == 0
    assert waiting.wait().answered == 50, waiting.tally
    assert server.survivors() == []


def test_a_killed_worker_costs_one_conversation(server: Server) -> None:
    """It loses what it had in hand; its sibling and its replacement serve everybody else."""
    victim = server.workers()[0]
    with Load(server.address, clients=4, payload=LINE, expect=LINE) as load:
        kill(victim)
        server.wait_for(lambda: len(server.workers()) == 2 and victim not in server.workers())
    assert load.tally.lost <= 1, load.tally


def test_a_worker_that_hangs_is_replaced(prefork_server: ServerFactory) -> None:
    """Frozen in the middle of a conversation, which is a hang that nothing in the worker itself can end."""
    server = prefork_server("echo:Echo", app_dir=EXAMPLES, workers=1, timeout=0.5)
    (worker,) = server.workers()
    with connect(server.address) as client:
        client.sendall(LINE)
        assert client.recv(100) == LINE  # it is busy with us
        with frozen([worker]):
            server.wait_for_log(rf"pid {worker}\b.* killed by")
    assert request(server.address, LINE, expect=LINE).outcome is Outcome.ANSWERED


def test_clients_wait_while_descriptors_are_short(server: Server) -> None:
    """No process of the server can open anything; nobody is turned away, and all are served afterwards."""
    with limited_descriptors(server.tree):
        waiting = burst(server.address, 20, payload=LINE, expect=LINE)
        server.wait_for_log("EMFILE")
    assert waiting.wait().answered == 20, waiting.tally


@pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))
@pytest.mark.parametrize("error", [errno.ENFILE, errno.ECONNABORTED, errno.ENOMEM], ids=errno.errorcode.get)
def test_accept_may_fail(prefork_server: ServerFactory, error: int) -> None:
    """The kernel itself makes five calls of accept(2) fail, whichever worker makes them."""
    faults = prefork_server.faults("accept")
    server = prefork_server("echo:Echo", app_dir=EXAMPLES, workers=2, options={"faults": faults})
    faults.fail("accept", first(5, error))
    tally = burst(server.address, 20, payload=LINE, expect=LINE).wait()
    assert tally.answered == 20, tally
    assert faults.failed("accept") == 5
