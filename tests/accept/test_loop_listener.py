"""Inlets: what a foreign event loop sees of a listener, in real servers whose workers have a loop of their own."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from prefork import Settings
from prefork.accept.fd_leak import LeakFinder
from prefork.accept.loop_listener import Intake
from prefork.accept.raw_socket import raw_accept
from prefork.accept.recovery import Rest
from prefork.accept.shedding import Shedder
from prefork.accept.unread_headers import UnreadHeaders
from prefork.accept.worker_context import WorkerContext
from prefork.net.proxy_reader import ProxyReader
from prefork.scoreboard.entry import Entry
from prefork.scoreboard.events import EventsPipe
from prefork.scoreboard.layout import Order, Scoreboard
from prefork.system.descriptors import SpareDescriptor, readable
from prefork.system.timerfd import TimerFd
from prefork.testing import Load, Server, burst, call_until, connect, request
from prefork.testing.plugin import ServerFactory
from prefork.testing.processes import frozen, kill, limited_descriptors
from tests.support.proxy_headers import inet, v2

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
    server = serve(prefork_server, timeout=1.5)
    assert request(server.address).status == 200
    before = server.workers()
    time.sleep(2.2)  # what is proven is that nothing happens meanwhile
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


@pytest.fixture
def given() -> Iterator[WorkerContext]:
    """What an intake asks of what a worker is given."""
    with contextlib.ExitStack() as stack:
        board = Scoreboard.create(1)
        stack.callback(board.close)
        events = EventsPipe()
        stack.callback(events.close)
        go, told = (os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2))
        for each in (go, told):
            stack.callback(os.close, each)
        entry = Entry(board, 0, events, go=go, master=os.getppid())
        entry.stop_fd = told
        log = logging.getLogger("prefork.test")
        settings = Settings(backoff_initial=60, backoff_max=60, backoff_jitter=0)
        spare = SpareDescriptor()
        leaks = LeakFinder(entry, log, spare)
        leaks.learn_what_is_usual()
        stack.callback(spare.give)
        shedder = Shedder(entry, settings, log, 1, spare)
        yield cast(
            "WorkerContext", SimpleNamespace(entry=entry, settings=settings, log=log, leaks=leaks, shedder=shedder)
        )


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.setblocking(False)
        yield made


@contextlib.contextmanager
def intake_on(listener: socket.socket, given: WorkerContext) -> Iterator[Intake]:
    intake = Intake(listener, given, one_at_a_time=False, taken=lambda: None)
    intake.open()
    try:
        yield intake
    finally:
        intake.close()


def test_an_inlet_that_is_made_after_an_order_takes_nothing(listener: socket.socket, given: WorkerContext) -> None:
    """A signal handler may run between any two instructions of the boot; it need not know of the inlet."""
    for order, takes in ((Order.RUN, True), (Order.SEAL, False)):
        given.entry.obeyed = order
        with intake_on(listener, given) as intake, socket.create_connection(listener.getsockname()):
            assert readable(listener.fileno(), seconds=10)
            if takes:
                os.close(intake.take()[0])
            else:
                with pytest.raises(BlockingIOError):
                    intake.take()


def test_a_rest_that_something_else_has_ended_leaves_no_tick_that_nobody_takes(
    listener: socket.socket, given: WorkerContext
) -> None:
    """The loop would be woken by it for ever."""
    entry = given.entry
    with intake_on(listener, given) as intake:
        entry.board.hold, entry.board.prober = errno.ENFILE, 1
        intake._begin(Rest(0.0, system=True))
        assert readable(intake.fileno(), seconds=10)
        with pytest.raises(BlockingIOError):
            intake.take()  # another is to find out when that is over
        os.eventfd_write(entry.go, 1)
        assert readable(intake.fileno(), seconds=10)
        with pytest.raises(BlockingIOError):
            intake.take()  # nobody waits
        assert is_off(intake._timer)
        with socket.create_connection(listener.getsockname()):
            assert readable(intake.fileno(), seconds=10)
            os.close(intake.take()[0])


def test_who_drains_at_the_limit_of_descriptors_rests_between_two_tries(
    listener: socket.socket, given: WorkerContext
) -> None:
    entry = given.entry
    with intake_on(listener, given) as intake, socket.create_connection(listener.getsockname()):
        assert readable(listener.fileno(), seconds=10)
        entry.obeyed = Order.DRAIN
        os.eventfd_write(entry.stop_fd, 1)
        lowest_free = os.dup(listener.fileno())
        os.close(lowest_free)
        with limited_descriptors([os.getpid()], lowest_free):
            for _ in range(2):  # one when the word comes, and one for it
                with pytest.raises(BlockingIOError):
                    intake.take()
        assert not readable(intake.fileno())
        intake._timer.set(0.0)
        assert readable(intake.fileno(), seconds=10)
        os.close(intake.take()[0])


def test_a_header_that_has_come_in_two_pieces_leaves_no_tick_behind(listener: socket.socket) -> None:
    strangers = UnreadHeaders(listener, ProxyReader("any", "*", logging.getLogger("prefork.test"), patience=60))
    header = v2(inet("203.0.113.9", 7))
    with socket.create_connection(listener.getsockname()) as client:
        assert readable(listener.fileno(), seconds=10)
        client.sendall(header[:5])
        assert strangers.introduce(raw_accept(listener)()) is None
        assert not is_off(strangers._timer)
        client.sendall(header[5:])
        fd, address = call_until(strangers.next) or (-1, None)
        os.close(fd)
        assert address == ("203.0.113.9", 7)
        assert is_off(strangers._timer)
    strangers.close()


def is_off(timer: TimerFd) -> bool:
    """Whether a timer neither is nor becomes readable (proc(5), /proc/PID/fdinfo)."""
    told = Path(f"/proc/self/fdinfo/{timer.fileno()}").read_text(encoding="ascii")
    return "it_value: (0, 0)" in told and not readable(timer.fileno())
