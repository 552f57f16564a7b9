"""Inlets: what a foreign event loop sees of a listener, in real servers whose workers have a loop of their own."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from prefork import Settings
from prefork.accept.fd_leak import LeakFinder
from prefork.accept.loop_listener import Intake
from prefork.accept.shedding import Shedder
from prefork.accept.worker_context import WorkerContext
from prefork.scoreboard.entry import Entry
from prefork.scoreboard.events import EventsPipe
from prefork.scoreboard.layout import Order, Scoreboard
from prefork.system.descriptors import SpareDescriptor
from prefork.testing import Load, Server, burst, connect, request
from prefork.testing.plugin import ServerFactory
from prefork.testing.processes import frozen, kill, limited_descriptors

APPS = Path(__file__).parents[1] / "support" / "apps"


def serve(
    server: ServerFactory, target: str = "looped:Looped", *, env: dict[str, str] | None = None, **settings: object
) -> Server:
    settings = {"workers": 2, **settings}
    return server(target, app_dir=str(APPS), subcommand="serve", options={"env": env or {}}, **settings)


def reload(server: Server) -> None:
    """Replace all workers and wait until that is done."""
    end = len(server.log())
    server.signal(signal.SIGHUP)
    server.wait_for_log(r"generation \d+ serves", after=end)
    server.wait_for(lambda: len(server.workers()) == 2, message="those who were replaced to be gone")


@pytest.mark.parametrize("greedy", ["0", "1"])
def test_both_workers_answer_and_reloads_and_a_stop_lose_nobody(prefork_server: ServerFactory, greedy: str) -> None:
    server = serve(prefork_server, env={"LOOPED_GREEDY": greedy})
    with Load(server.address, clients=8) as load:
        load.wait_for(lambda tally: tally.answered >= 500 and len(tally.bodies) == 2)
        for _ in range(2):
            reload(server)
    assert load.tally.lost == 0, load.tally
    waiting = burst(server.address, 100)
    assert server.stop() == 0
    assert waiting.wait().answered == 100, waiting.tally


def test_nothing_comes_before_the_worker_is_ready(prefork_server: ServerFactory) -> None:
    """The worker looks itself: its selector is to find nothing for the seconds that its boot takes."""
    server = serve(prefork_server, env={"LOOPED_BOOT": "0.3"}, workers=1)
    with Load(server.address, clients=4) as load:
        server.signal(signal.SIGHUP)
        server.wait_for_log("generation 1 serves")
    assert load.tally.lost == 0, load.tally
    assert "before its worker is READY" not in server.log()


def test_at_the_limit_of_descriptors_it_rests_and_loses_nobody(prefork_server: ServerFactory) -> None:
    server = serve(prefork_server)
    with limited_descriptors(server.workers()):
        waiting = burst(server.address, 20)
        server.wait_for_log(r"out of descriptors \(EMFILE")
        before = server.cpu_seconds()
        time.sleep(1.5)  # in which nobody can be served
        assert server.cpu_seconds() - before < 0.5  # a loop that spins takes all of it, in both workers
    assert waiting.wait().answered == 20, waiting.tally
    server.wait_for_log("workers have descriptors again")
    assert server.log().count("descriptors") <= 5  # for all workers together, not for each retry


def test_what_servers_do_to_their_listener_costs_the_siblings_nothing(prefork_server: ServerFactory) -> None:
    """listen(1) would cut the queue to one, setblocking() would stop the loop, shutdown() the whole server."""
    server = serve(prefork_server, env={"LOOPED_CONFUSED": "1"}, backlog=64)
    with frozen(server.workers()):
        waiting = burst(server.address, 40)
    assert waiting.wait().answered == 40, waiting.tally
    with Load(server.address, clients=8) as load:
        reload(server)
    assert load.tally.lost == 0, load.tally
    assert request(server.address).status == 200


def test_one_at_a_time_gives_a_greedy_loop_one_connection_a_turn(prefork_server: ServerFactory) -> None:
    server = serve(prefork_server, env={"LOOPED_GREEDY": "1"}, workers=1)
    with frozen(server.workers()):
        waiting = [connect(server.address) for _ in range(5)]
        for client in waiting:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
    turns = []
    for client in waiting:
        with client, client.makefile("rb") as answer:
            turns.append(next(line for line in answer if line.startswith(b"X-Turn")))
    assert len(set(turns)) == 5, turns


def test_max_requests_counts_what_an_inlet_gives(prefork_server: ServerFactory) -> None:
    server = serve(prefork_server, max_requests=50, workers=1)
    (first,) = server.workers()
    with Load(server.address, clients=2, count=49) as load:
        assert load.wait().lost == 0, load.tally
    assert "wants to be replaced" not in server.log()
    with Load(server.address, clients=2) as load:
        server.wait_for_log(rf"pid {first}\) wants to be replaced: max_requests")
        server.wait_for_log(rf"pid {first}, generation 0\) exited with code 0")
    assert load.tally.lost == 0, load.tally


def test_a_loop_that_blocks_is_found_and_its_siblings_serve(prefork_server: ServerFactory) -> None:
    server = serve(prefork_server, "looped:Hanging", timeout=1)
    with connect(server.address) as client:
        client.sendall(b"GET /hang HTTP/1.0\r\n\r\n")
        server.wait_for_log(r"has been busy with one connection for")
        server.wait_for_log(r"looped\.py\", line \d+ in answer")  # the traceback shows where
        server.wait_for_log("killed by SIG(ABRT|KILL)")
    server.wait_for(lambda: len(server.workers()) == 2)
    assert request(server.address).status == 200


def test_an_idle_loop_is_no_hang(prefork_server: ServerFactory) -> None:
    server = serve(prefork_server, timeout=0.3)
    assert request(server.address).status == 200
    before = server.workers()
    time.sleep(1.2)  # what is proven is that nothing happens meanwhile
    assert server.workers() == before
    assert "has been busy" not in server.log()


def test_a_worker_that_is_killed_takes_no_listener_along(prefork_server: ServerFactory) -> None:
    server = serve(prefork_server)
    victim = server.workers()[0]
    with Load(server.address, clients=4) as load:
        load.wait_for(lambda tally: len(tally.bodies) == 2)
        kill(victim)
        server.wait_for(lambda: len(server.workers()) == 2 and victim not in server.workers())
        load.wait_for(lambda tally: len(tally.bodies) == 3)
    assert load.tally.lost <= 1, load.tally  # the one that it had in hand


@pytest.mark.parametrize("bind", [("127.0.0.1:0", "127.0.0.1:0"), ("unix:@prefork-test-inlet-{}", "127.0.0.1:0")])
def test_several_listeners(prefork_server: ServerFactory, bind: tuple[str, ...]) -> None:
    server = serve(prefork_server, bind=[text.format(os.getpid()) for text in bind])
    with Load(server.addresses, clients=8, count=400) as load:
        tally = load.wait()
    assert tally.lost == 0, tally
    assert server.stop() == 0


def test_an_inlet_that_is_made_after_an_order_takes_nothing() -> None:
    """A signal handler may run between any two instructions of the boot; it need not know of the inlet."""
    with contextlib.ExitStack() as stack:
        board = Scoreboard.create(1)
        stack.callback(board.close)
        events = EventsPipe()
        stack.callback(events.close)
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.setblocking(False)
        entry = Entry(board, 0, events, go=-1, master=os.getppid())
        entry.stop_fd = os.eventfd(0)
        stack.callback(os.close, entry.stop_fd)
        settings, log = Settings(), logging.getLogger("prefork.test")
        spare = SpareDescriptor()
        given = SimpleNamespace(
            entry=entry,
            settings=settings,
            log=log,
            leaks=LeakFinder(entry, log, spare),
            shedder=Shedder(entry, settings, log, 1, spare),
        )
        for order, takes in ((Order.RUN, True), (Order.SEAL, False)):
            entry.obeyed = order
            intake = Intake(listener, cast("WorkerContext", given), one_at_a_time=False, taken=lambda: None)
            stack.callback(intake.close)
            intake.open()
            stack.enter_context(socket.create_connection(listener.getsockname()))
            if takes:
                os.close(intake.take()[0])
            else:
                with pytest.raises(BlockingIOError):
                    intake.take()
