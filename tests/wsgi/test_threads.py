"""``prefork wsgi --threads``: several requests at once in each worker, and connections that outlive it all the same."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from prefork.services.control.client import Client as ControlClient
from prefork.testing.client import Load
from prefork.testing.server import Server, running
from tests.support.boards import wait_until_idle
from tests.support.figures import count, full
from tests.support.kept import Client, Crowd, readable
from tests.support.wsgi.harness import ROOT, WITHIN, get, post

CLIENTS = 12


@contextmanager
def threaded(app: str, *flags: str, workers: int = 2, threads: int = 4) -> Iterator[Server]:
    what = [f"tests.support.wsgi.apps:{app}", f"--workers={workers}", f"--threads={threads}"]
    command = [sys.executable, "-m", "prefork", "wsgi", *what, "--bind=127.0.0.1:0", *flags]
    with running(command, cwd=ROOT, within=WITHIN) as server:
        yield server


def test_a_slow_request_and_quick_ones_beside_it_in_one_worker(tmp_path: Path) -> None:
    control = str(tmp_path / "control")
    with threaded("nap", "--control", control, workers=1) as server, ExitStack() as stack:
        quick, slow = ([Client(server.address) for _ in range(number)] for number in (5, 3))
        for client in (*quick, *slow):
            stack.callback(client.close)
            assert client.ask(get("/0")) == b"awake"
        for client in slow:
            client.send(get("/20"))  # longer than all the rest, on any machine
        for _ in range(5):
            assert [client.ask(get("/0")) for client in quick] == [b"awake"] * 5
        assert not readable(slow[0], 0.01)
        with ControlClient(control) as asked:
            server.wait_for(lambda: asked.status().workers[0].in_hand == 3, message="the slow ones to be in hand")
            (worker,) = asked.status().workers
            assert (worker.parked, len(worker.lanes), worker.served) == (8, 4, 33)
            assert Counter(one.label for one in worker.requests) == {"GET /20": 3}
        server.signal(signal.SIGINT)
        server.signal(signal.SIGINT)
        server.wait()


@pytest.mark.parametrize("keepalive", ["75", "0"])
def test_workers_come_and_go_and_nobody_is_lost(keepalive: str) -> None:
    flags = ("--max-requests=400", "--max-recycling=2", "--keepalive-min-timeout=3", f"--keepalive={keepalive}")
    with threaded("echo", *flags) as server:
        crowd = Crowd(server.address, clients=CLIENTS, think=0.005)
        for signum in (signal.SIGHUP, signal.SIGTTIN, signal.SIGHUP, signal.SIGTTOU) * (5 if full() else 1):
            answered = crowd.counts["answered"]
            server.signal(signum)
            server.wait_for(lambda answered=answered: crowd.counts["answered"] > answered + 200, WITHIN)  # type: ignore[misc]  # mypy can't infer a lambda with a default
        server.wait_for_log(r"connections served \(max_requests\)")
        crowd.stop()
        assert (crowd.counts["lost"], crowd.counts["refused"], crowd.losses) == (0, 0, [])
        if keepalive != "0":
            assert (crowd.counts["connections"], crowd.counts["closed"]) == (CLIENTS, 0)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert "Traceback" not in server.log()


def test_a_stop_answers_whoever_speaks_in_time() -> None:
    for _ in range(count("laned-stops", part=30)):
        with threaded("echo", "--keepalive-min-timeout=3") as server:  # on a busy machine, too
            silent = Client(server.address)
            assert silent.ask(get()) == b""
            crowd = Crowd(server.address, clients=8, think=0.04, reconnects=False)
            server.wait_for(lambda: crowd.counts["answered"] > 100)  # noqa: B023  # it is waited for here
            server.signal(signal.SIGTERM)
            assert server.wait() == 0
            crowd.stop()
            assert (crowd.counts["lost"], crowd.counts["closed"], crowd.losses) == (0, 8, [])
            assert silent.over()
            silent.close()


def test_a_request_that_is_slow_is_finished_when_its_worker_leaves_and_its_connection_stays() -> None:
    with threaded("nap", workers=1) as server, ExitStack() as stack:
        slow, idle = Client(server.address), Client(server.address)
        for client in (slow, idle):
            stack.callback(client.close)
            assert client.ask(get("/0")) == b"awake"
        slow.send(get("/1.5"))
        (before,) = server.workers()
        server.signal(signal.SIGHUP)
        server.wait_for(lambda: before not in server.workers() or len(server.workers()) == 2)
        assert idle.ask(get("/0")) == b"awake"  # it has been passed on, and waits for nobody
        assert slow.answer() == b"awake"
        assert not slow.closes
        server.wait_for(lambda: before not in server.workers())
        assert [client.ask(get("/0")) for client in (slow, idle)] == [b"awake"] * 2


def test_no_process_has_two_in_hand_while_others_have_none() -> None:
    with threaded("crowded", "--keepalive=0", workers=6, threads=2) as server:
        wait_until_idle(server, 6)
        with Load(server.address, clients=3, count=count("laned-requests", part=30), payload=get()) as load:
            tally = load.wait(120)
        assert set(tally.bodies) == {b"1"}, tally
        assert server.stop() == 0


def test_an_application_is_told_and_its_threads_are_no_daemons() -> None:
    with threaded("crowded", workers=1, threads=2) as server:
        client = Client(server.address)
        assert client.ask(post(b"a")) == b"1"
        assert (client.fields["multithread"], client.fields["daemon"]) == ("True", "False")
        client.close()
