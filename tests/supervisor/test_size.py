"""How many workers there are: by signal, and by the load."""

from __future__ import annotations

import contextlib
import re
import signal
import time
from pathlib import Path

import psutil
import pytest

from prefork.testing import Load, Server, call_until, running_target
from prefork.testing.plugin import ServerFactory
from tests.support.kept import Client
from tests.support.probing import APPS, LOGGING, ask, complaints, get, held, probe, steady, told


def sizes(server: Server) -> list[int]:
    """The sizes that the server has gone through."""
    return [int(text) for text in re.findall(r"(\d+) workers instead of \d+", server.log())]


def test_signals_make_it_one_more_and_one_fewer_and_lose_nobody(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=2)
    first = server.workers()
    descriptors = server.descriptors()
    with Load(server.address, clients=4, bodies=False) as load:
        for size in (3, 4, 5, 6):
            server.signal(signal.SIGTTIN)
            steady(server, size)
        for size in (5, 4, 3, 2, 1):
            server.signal(signal.SIGTTOU)
            steady(server, size)
        for _ in range(3):
            server.signal(signal.SIGTTOU)  # the last one stays
        load.wait_for(lambda tally, so_far=load.tally.answered: tally.answered > so_far + 200)  # type: ignore[misc]  # mypy can't infer a lambda with a default
        server.signal(signal.SIGTTIN)
        steady(server, 2)
    assert load.tally.lost == 0, load.tally
    assert sizes(server) == [3, 4, 5, 6, 5, 4, 3, 2, 1, 2]
    assert first[0] in server.workers()  # slot 0 was never surplus
    assert complaints(server) == []
    server.wait_for(lambda: server.descriptors() <= descriptors, message=f"{descriptors} descriptors in the master")
    assert server.stop() == 0


def test_a_slot_that_goes_finishes_what_it_has_in_hand(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=2)
    with held(server, 2) as connections:
        server.signal(signal.SIGTTOU)
        server.wait_for_log("1 workers instead of 2")
        for connection in connections:
            connection.finish()
        steady(server, 1)
    assert told(server, "is killed") == []


def test_a_size_changed_during_a_reload_is_reached(prefork_server: ServerFactory) -> None:
    server = prefork_server("slow:Slowly", app_dir=APPS, workers=3)
    before = server.workers()
    server.signal(signal.SIGHUP)
    server.wait_for_log("reload: generation 1$")
    server.signal(signal.SIGTTIN)
    server.wait_for_log("4 workers instead of 3")
    server.signal(signal.SIGTTIN)
    server.wait_for_log("generation 1 serves")
    assert not set(steady(server, 5)) & set(before)


WAITING = """
import os, sys, time
import prefork

class Waiting(prefork.Worker):
    def init(self):
        if self.generation:
            os.write(1, b"boots in slot %d\\n" % self.slot)
            while not os.path.exists(sys.argv[1] + str(self.slot)):
                time.sleep(0.01)

    def handle(self, connection, address):
        pass

prefork.Master(Waiting, prefork.Settings(bind="127.0.0.1:0", workers=2, control="off")).run()
"""
"""Later generations boot until a file is there."""


def test_a_reload_is_done_when_those_it_waits_for_are_surplus(prefork_server: ServerFactory, tmp_path: Path) -> None:
    server = prefork_server.script(LOGGING + WAITING, str(tmp_path / "go"))
    server.signal(signal.SIGHUP)
    server.wait_for_log("^boots in slot 0$")
    (tmp_path / "go0").touch()
    server.wait_for_log("^boots in slot 1$")
    server.signal(signal.SIGTTOU)
    server.wait_for_log("(?s)1 workers instead of 2.*generation 1 serves")
    steady(server, 1)


@pytest.mark.long
def test_it_grows_with_the_load_and_shrinks_again_and_loses_nobody(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=1, min_workers=1, max_workers=8, idle_timeout=1)
    assert len(server.workers()) == 1
    with Load(server.address, clients=64, payload=get("/sleep/0.05"), bodies=False) as load:
        steady(server, 8)
        load.wait_for(lambda tally, so_far=load.tally.answered: tally.answered > so_far + 200)  # type: ignore[misc]  # mypy can't infer a lambda with a default
    assert load.tally.lost == 0, load.tally
    steady(server, 1)
    ask(server)
    # Straight up and straight down.
    seen = [1, *sizes(server)]
    top = seen.index(8)
    assert seen[: top + 1] == sorted(set(seen[: top + 1]))
    assert seen[top:] == sorted(set(seen[top:]), reverse=True)
    assert complaints(server) == []
    assert server.stop() == 0


@pytest.mark.parametrize("rhythm", [0.02, 0.2])
def test_a_load_that_one_worker_bears_keeps_no_other_and_adds_none(
    prefork_server: ServerFactory, rhythm: float
) -> None:
    server = probe(prefork_server, workers=2, min_workers=1, max_workers=8, idle_timeout=0.5)

    def one_more() -> int:
        ask(server)
        time.sleep(rhythm)  # which no hold-up of the machine makes a crowd
        return len(server.workers())

    call_until(one_more, lambda size: size == 1, message="one worker")
    for _ in range(60):
        one_more()
    assert max(sizes(server)) <= 2


def test_a_burst_on_an_idle_server_is_noticed(prefork_server: ServerFactory) -> None:
    # Nobody asks an idle server how it fares: the worker that takes the last idle place must say so.
    server = probe(prefork_server, workers=2, min_workers=2, max_workers=4, idle_timeout=60)
    with held(server, 2), Load(server.address, clients=2, count=2) as load:
        assert load.wait().answered == 2
        assert len(server.workers()) > 2  # and one more may be on its way
    assert psutil.pid_exists(server.pid)


SLOW = """\
import time

def application(environ, start_response):
    time.sleep(0.05)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"hi"]
"""


@pytest.mark.long
def test_it_grows_by_the_queue_time_of_kept_connections(tmp_path: Path) -> None:
    """They are in no accept queue, so nothing but how long their requests had waited tells of them."""
    (tmp_path / "slow.py").write_text(SLOW)
    with (
        running_target(
            "slow:application",
            app_dir=tmp_path,
            subcommand="wsgi",
            workers=1,
            max_workers=3,
            scale_queue_time=0.05,
            control="off",
        ) as server,
        contextlib.ExitStack() as stack,
    ):
        get_it = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        clients = []
        for _ in range(8):  # one after the other, so that no connection waits to be accepted
            clients.append(stack.enter_context(contextlib.closing(Client(server.address))))
            assert clients[-1].ask(get_it) == b"hi"
        assert len(server.workers()) == 1

        def ask_all() -> int:
            for client in clients:
                client.send(get_it)
            assert all(client.answer() == b"hi" for client in clients)
            return len(server.workers())

        assert call_until(ask_all, lambda workers: workers == 3) == 3
