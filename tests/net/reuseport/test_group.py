"""SO_REUSEPORT: each slot has its own socket and queue, which outlive its workers."""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path

import pytest

from prefork.errors import ControlError
from prefork.services.control import Client
from prefork.testing import Load, Server, burst, call_until, hold_port, request
from prefork.testing.plugin import ServerFactory
from prefork.testing.processes import frozen, limited_descriptors
from tests.support.figures import count
from tests.support.probing import PATIENCE, Held, ask, get, probe, replaced, steady, told


def test_a_killed_workers_queue_is_served_by_its_replacement(prefork_server: ServerFactory) -> None:
    for _ in range(count("killed-queues", least=2)):
        server = probe(prefork_server, workers=1, reuse_port=True)
        connection = Held(server)
        with burst(server.address, 50, payload=get("/pid")) as load:
            os.kill(connection.pid, signal.SIGKILL)
            tally = load.wait(30)
        assert tally.answered == 50, tally
        assert connection.pid not in {int(body) for body in tally.bodies}
        assert connection.lost()
        assert server.stop() == 0


def resize(server: Server, signum: int, size: int) -> None:
    wanted = len(server.workers())
    while wanted != size:
        wanted += 1 if signum == signal.SIGTTIN else -1
        begin = len(server.log())
        server.signal(signum)
        server.wait_for_log(rf"{wanted} workers instead of", after=begin)  # signals of one kind don't queue
    steady(server, size)


@pytest.mark.parametrize("listeners", [1, 2])
def test_who_cannot_grow_as_far_as_asked_does_not_grow_at_all(
    prefork_server: ServerFactory, tmp_path: Path, listeners: int
) -> None:
    """A member that has no worker would be given connections all the same."""
    control = tmp_path / "control"
    bind = ("127.0.0.1:0", "127.0.0.2:0")[:listeners]
    server = probe(prefork_server, workers=2, reuse_port=True, bind=bind, control=control)
    with Client(control) as client:
        client.health()
        held = {int(name) for name in os.listdir(f"/proc/{server.pid}/fd")}
        free = (number for number in itertools.count() if number not in held)
        limit = next(itertools.islice(free, 6 * listeners - 3, None))  # for half of the last listener's new members
        with limited_descriptors([server.pid], limit):
            with pytest.raises(ControlError, match=r"8 workers can't be had: .* \(there are 2\)"):
                client.scale(8)
            for address in server.addresses * 40:
                assert request(address, get("/"), timeout=PATIENCE).status == 200
        assert client.scale(8) == 2
    steady(server, 8)
    assert server.stop() == 0


@pytest.mark.long
def test_growing_and_shrinking_under_load_loses_nobody(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=2, reuse_port=True)
    with Load(server.address, clients=16, payload=get("/pid")) as load:
        for _ in range(count("resizes", least=2)):
            resize(server, signal.SIGTTIN, 8)
            grown = load.tally.answered
            load.wait_for(lambda tally, grown=grown: tally.answered > grown + 200)  # type: ignore[misc]  # mypy can't infer a lambda with a default
            resize(server, signal.SIGTTOU, 2)
            shrunk = load.tally.answered
            load.wait_for(lambda tally, shrunk=shrunk: tally.answered > shrunk + 200)  # type: ignore[misc]  # mypy can't infer a lambda with a default
    assert load.tally.lost == 0, load.tally
    assert server.stop() == 0


def test_shrinking_beside_a_second_server_loses_nobody(prefork_server: ServerFactory) -> None:
    with hold_port(reuse_port=True) as address:
        server = probe(prefork_server, workers=4, reuse_port=True, bind=address)
        other = probe(prefork_server, workers=2, reuse_port=True, bind=address)
        with Load(address, clients=16, payload=get("/pid")) as load:
            resize(server, signal.SIGTTOU, 1)
            shrunk = load.tally.answered
            load.wait_for(lambda tally: tally.answered > shrunk + 500)
        assert load.tally.lost == 0, load.tally
        assert server.stop() == 0
        assert {int(request(address, get("/pid")).body) for _ in range(50)} <= set(other.workers())
        assert other.stop() == 0


@pytest.mark.parametrize("mode", ["hash", "random", "cpu"])
def test_modes(prefork_server: ServerFactory, mode: str) -> None:
    server = probe(prefork_server, workers=2, reuse_port=True, reuse_port_mode=mode)
    with burst(server.address, 200, payload=get("/pid")) as load:
        assert load.wait(30).answered == 200
    if mode != "cpu":  # which CPU receives is the machine's affair
        assert sorted(int(body) for body in load.tally.bodies) == server.workers()
    assert server.stop() == 0


def test_new_connections_avoid_a_slot_that_nobody_serves(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=3, reuse_port=True)
    before = server.workers()
    with Load(server.address, clients=8, payload=get("/pid")) as load:
        load.wait_for(lambda tally: tally.answered > 50)
        os.kill(before[0], signal.SIGKILL)
        call_until(server.workers, lambda now: len(now) == 3 and before[0] not in now)
        answered = load.tally.answered
        load.wait_for(lambda tally: tally.answered > answered + 100)
    assert load.tally.lost <= 1, load.tally
    assert server.stop() == 0


def test_a_reload_keeps_sockets_and_queues(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=4, reuse_port=True)
    before = server.workers()
    with Load(server.address, clients=16, payload=get("/pid")) as load:
        server.signal(signal.SIGHUP)
        replaced(server, before)
        answered = load.tally.answered
        load.wait_for(lambda tally: tally.answered > answered + 100)
    assert load.tally.lost == 0, load.tally
    assert int(ask(server)) in server.workers()
    assert server.stop() == 0


@pytest.mark.long
def test_a_slot_that_goes_when_an_upgrade_comes_goes_all_the_same(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=2, reuse_port=True)
    resize(server, signal.SIGTTIN, 3)
    server.wait_for_log(r"^init 2 \d+$")
    [init] = told(server, r"^init 2 \d+$")
    with frozen([int(init.split()[2])]):
        # Who falls to that slot waits in its own queue, so that it can't go yet.
        load = burst(server.address, 30, payload=get("/pid"))
        server.signal(signal.SIGTTOU)
        server.wait_for_log("2 workers instead of 3")
        server.signal(signal.SIGUSR2)
        server.wait_for_log("upgrade: generation 1")
    with load:
        assert load.wait(60).answered == 30, load.tally
    steady(server, 2)
    assert server.stop() == 0


def test_a_slot_that_comes_back_before_its_socket_is_closed_gets_connections(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=2, reuse_port=True, log_level="debug")
    [init] = told(server, r"^init 1 \d+$")
    with frozen([int(init.split()[2])]):
        server.signal(signal.SIGTTOU)
        server.wait_for_log(r"worker 1 \(pid \d+\) is told to leave: the server shrinks")
        server.signal(signal.SIGTTIN)
        server.wait_for_log("2 workers instead of 1")
    server.wait_for(lambda: len(told(server, r"^init 1 \d+$")) == 2, message="another worker in that slot")
    with Load(server.address, clients=8, payload=get("/slot")) as load:
        load.wait_for(lambda tally: min(tally.bodies[b"0"], tally.bodies[b"1"]) > 20)
    assert load.tally.lost == 0, load.tally
    assert server.stop() == 0


def test_a_stop_after_a_slot_has_gone_serves_who_waits(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=2, reuse_port=True)
    resize(server, signal.SIGTTOU, 1)
    server.wait_for_log("the server shrinks")
    with burst(server.address, 100, payload=get("/sleep/0.01")) as load:
        server.signal(signal.SIGTERM)
        assert load.wait(60).answered == 100, load.tally
    assert server.wait() == 0
