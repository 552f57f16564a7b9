"""One worker serves several listeners, without a herd, and kinds of sockets that are not TCP."""

from __future__ import annotations

import collections
import errno
import os
import signal
import socket
from pathlib import Path

import pytest

from prefork.testing import Server, burst, call_until, connect, measure
from prefork.testing.faults import Injector, always, every, once, unavailable
from prefork.testing.plugin import ServerFactory
from prefork.testing.processes import limited_descriptors
from tests.support.boards import board_of, living
from tests.support.figures import count
from tests.support.probing import APPS, LOGGING, ask, get, line, probe, replaced
from tests.support.programs import facts


def greet(address: str) -> int:
    """Who greets a client."""
    with connect(address, timeout=30) as client:
        return int(line(client))


def wait_idle(server: Server) -> None:
    """Whoever still has a connection in hand has a descriptor more than the limit that it is about to be given."""
    with board_of(server) as board:
        server.wait_for(
            lambda: not any(lane.busy_since for view in living(board) for lane in view.lanes), message="all to be idle"
        )


def test_two_listeners_are_served_fairly_and_wake_one_worker(prefork_server: ServerFactory) -> None:
    total = count("alternating-connections")
    server = prefork_server("greeter:handle", app_dir=APPS, workers=8, bind=("127.0.0.1:0", "127.0.0.1:0"))
    for address in server.addresses:
        greet(address)
    workers = server.workers()

    def serve() -> tuple[collections.Counter[int], int]:
        before = measure.voluntary_switches(workers)
        served = collections.Counter(greet(server.addresses[number % 2]) for number in range(total))
        assert sum(served.values()) == total
        return served, measure.voluntary_switches(workers) - before

    call_until(  # who has to wait for the processor has less than its share
        serve,
        lambda found: (
            sorted(found[0]) == workers
            and max(found[0].values()) <= 1.3 * min(found[0].values())
            and found[1] <= 1.2 * total
        ),
        timeout=60,
        message=f"a fair share for each, with hardly more wake-ups than {total}",
    )


def test_mixed_families(prefork_server: ServerFactory, tmp_path: Path) -> None:
    abstract = f"unix:@prefork-test-{os.getpid()}"
    bind = ("127.0.0.1:0", "[::1]:0", f"unix:{tmp_path}/socket", abstract)
    server = prefork_server("greeter:handle", app_dir=APPS, workers=2, bind=bind)
    assert len(server.addresses) == 4
    for address in server.addresses:
        assert {greet(address) for _ in range(20)} <= set(server.workers())
    assert server.stop() == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_seqpacket(prefork_server: ServerFactory, tmp_path: Path, kind: str) -> None:
    name = f"\0prefork-test-seq-{os.getpid()}" if kind == "abstract" else f"{tmp_path}/socket"
    bind = f"seqpacket:@{name[1:]}" if kind == "abstract" else f"seqpacket:{name}"
    server = prefork_server("greeter:handle", app_dir=APPS, workers=2, bind=bind)
    assert server.address == bind
    for _ in range(20):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.settimeout(30)
            client.connect(name)
            assert int(client.recv(100)) in server.workers()
            assert client.recv(100) == b""
    assert server.stop() == 0


def test_a_replacement_serves_all_listeners(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=2, bind=("127.0.0.1:0", "127.0.0.1:0"))
    before = server.workers()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    replaced(server, before)
    with burst(list(server.addresses), 40) as load:
        assert load.wait(30).answered == 40


def test_a_reload_loses_nobody(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=4, bind=("127.0.0.1:0", "127.0.0.1:0"))
    for generation in range(1, 4):
        with burst(list(server.addresses), 100, payload=get("/sleep/0.005")) as load:
            server.signal(signal.SIGHUP)
            server.wait_for_log(f"generation {generation} serves")
            assert load.wait(30).answered == 100


def test_at_the_limit_of_descriptors_both_listeners_wait(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=2, bind=("127.0.0.1:0", "127.0.0.1:0"))
    ask(server)
    wait_idle(server)
    with limited_descriptors(server.tree):
        waiting = burst(list(server.addresses), 20, timeout=60.0)
        server.wait_for_log(r"a worker is out of descriptors \(EMFILE")
        assert waiting.tally.total == 0
        before = server.cpu_seconds()
        server.wait_for_log("every worker is out of descriptors")
        assert server.cpu_seconds() - before < 5
    assert waiting.wait().answered == 20
    assert server.stop() == 0


def test_a_worker_at_its_limit_passes_on_what_has_woken_it(prefork_server: ServerFactory) -> None:
    """The kernel wakes one worker for a connection. Whichever that is, the one that has descriptors serves."""
    server = prefork_server("greeter:handle", app_dir=APPS, workers=3, bind=("127.0.0.1:0", "127.0.0.1:0"))
    workers = server.workers()
    for able in workers:
        wait_idle(server)
        with limited_descriptors([pid for pid in workers if pid != able]):
            for address in server.addresses:
                assert greet(address) == able
    server.wait_for_log(r"a worker is out of descriptors \(EMFILE")
    assert server.stop() == 0


LOSING = (
    LOGGING
    + """
import os, sys, time
import prefork

class Worker(prefork.Worker):
    def init(self):
        time.sleep(0.5)  # a replacement takes its time

    def handle(self, connection, address):
        if connection.recv(1000) == b"lose it\\n":
            os.dup2(os.open("/dev/null", os.O_RDONLY), self.sockets[0].fileno())
        connection.sendall(b"%d\\n" % os.getpid())

sys.exit(prefork.Master(Worker, prefork.Settings(bind=("127.0.0.1:0", "127.0.0.1:0"), workers=2)).run())
"""
)


def test_a_worker_that_loses_its_own_copy_passes_on_what_has_woken_it(prefork_server: ServerFactory) -> None:
    server = prefork_server.script(LOSING)
    before = server.workers()

    def say(text: bytes) -> int:
        with connect(server.address, timeout=30) as client:
            client.sendall(text)
            return int(line(client))

    victim = say(b"lose it\n")
    wait_idle(server)
    assert say(b"serve\n") in set(before) - {victim}
    server.wait_for_log(rf"pid {victim}, generation 0\) exited with code 1")
    assert server.stop() == 0


@pytest.mark.skipif(unavailable() is not None, reason=f"no fault injection here: {unavailable()}")
@pytest.mark.parametrize("error", [errno.ECONNABORTED, errno.EINTR, errno.EMFILE, errno.ENFILE, errno.EPERM])
def test_a_failed_accept_loses_nobody(prefork_server: ServerFactory, error: int) -> None:
    with Injector("accept") as faults:
        server = prefork_server(
            "greeter:handle", app_dir=APPS, workers=2, bind=("127.0.0.1:0", "127.0.0.1:0"), options={"faults": faults}
        )
        faults.fail("accept", once(error))
        for number in range(20):
            assert greet(server.addresses[number % 2]) in server.workers()
        assert faults.failed("accept") == 1
        assert server.stop() == 0


@pytest.mark.skipif(unavailable() is not None, reason=f"no fault injection here: {unavailable()}")
def test_no_room_for_another_registration_costs_nobody(prefork_server: ServerFactory) -> None:
    with Injector("epoll_add") as faults:
        server = prefork_server(
            "greeter:handle",
            app_dir=APPS,
            workers=2,
            bind=("127.0.0.1:0", "127.0.0.1:0"),
            control="off",
            options={"faults": faults},
        )
        workers = server.workers()
        for error in (errno.ENOMEM, errno.ENOSPC, errno.EINTR):
            # A worker registers anew every few connections.
            for pattern in (every(2, error), always(error)):
                faults.fail("epoll_add", pattern)
                assert {greet(server.addresses[number % 2]) for number in range(100)} <= set(workers)
        assert faults.failed("epoll_add") >= 12
        assert server.workers() == workers
        assert server.stop() == 0


def test_who_ends_while_he_is_looked_for_has_nothing_any_more() -> None:
    """As a worker does whose master was killed, when a hash that it was at has come to its end."""
    body = """
import json, socket, sys
from prefork.config.address import parse
from prefork.errors import InUseError
from prefork.net.listeners import listen
from prefork.net.options import SocketOptions

held = socket.create_server(("127.0.0.1", 0))
port = held.getsockname()[1]
address = parse(f"127.0.0.1:{port}")

def look(event, given):
    if event == "os.listdir" and given[0] == "/proc" and ends:
        held.close()

def told():
    try:
        (made,) = listen([address], backlog=5, options=SocketOptions())
    except InUseError as error:
        return str(error).partition(": ")[2]
    made.close()
    return "listens"

ends = False
sys.addaudithook(look)
found = [told()]
ends = True
print(json.dumps([found[0].endswith("which is this process; choose another port"), told()]))
"""
    assert facts(body) == [True, "listens"]
