"""The promise: whoever has reached the server when it is told to stop is answered. Counted, in every arrangement."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from prefork.config.address import parse
from prefork.scoreboard.layout import State
from prefork.testing import Server, burst, hold_port
from prefork.testing.plugin import ServerFactory
from tests.support import sockets
from tests.support.boards import board_of, living
from tests.support.figures import count
from tests.support.probing import get, held, probe, wait_gone

CLIENTS = 150
WORK = get("/sleep/0.02")

ARRANGEMENTS: dict[str, dict[str, Any]] = {
    "tcp": {},
    "ipv6 dual stack": {"bind": "[::]:0"},
    "reuse_port": {"reuse_port": True},
    "two listeners": {"bind": ("127.0.0.1:0", "127.0.0.1:0")},
    "two groups": {"bind": ("127.0.0.1:0", "127.0.0.1:0"), "reuse_port": True},
    "unix": {"bind": "unix:{tmp}/socket"},
    "defer_accept": {"defer_accept": 5},
}


def arranged(factory: ServerFactory, name: str, tmp_path: Path, **more: Any) -> Server:
    settings = {"workers": 4, **ARRANGEMENTS[name], **more}
    bind = settings.get("bind", "127.0.0.1:0")
    settings["bind"] = bind.format(tmp=tmp_path) if isinstance(bind, str) else bind
    return probe(factory, **settings)


def _established(client: socket.socket) -> bool:
    return sockets.state(client) == 1


def addresses(server: Server) -> list[str]:
    return [address.replace("[::]", "127.0.0.1") for address in server.addresses]


# Each way to be told, and what listens differently; all with all for long.
QUICK = {("tcp", True), ("unix", False), ("two groups", False), ("reuse_port", True)}
STOPS = [
    pytest.param(name, group, id=f"{name}-{way}", marks=() if (name, group) in QUICK else pytest.mark.long)
    for name in ARRANGEMENTS
    for group, way in ((False, "master"), (True, "process group"))
]


@pytest.mark.parametrize(("name", "group"), STOPS)
def test_all_who_wait_are_answered(prefork_server: ServerFactory, tmp_path: Path, name: str, group: bool) -> None:
    for _ in range(count("lossless-stops")):
        server = arranged(prefork_server, name, tmp_path)
        with burst(addresses(server), CLIENTS, payload=WORK) as load:
            load.wait_for(lambda tally: tally.answered >= 20)
            (server.signal_group if group else server.signal)(signal.SIGTERM)
            tally = load.wait(60)
        assert tally.answered == CLIENTS, tally
        assert server.wait() == 0
        assert server.survivors() == []
        assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_one_slot_just_killed_costs_what_it_had_in_hand(prefork_server: ServerFactory, tmp_path: Path) -> None:
    for _ in range(count("lossless-stops")):
        for name in ("tcp", "reuse_port"):
            server = arranged(prefork_server, name, tmp_path)
            with burst(addresses(server), CLIENTS, payload=WORK) as load:
                load.wait_for(lambda tally: tally.answered >= 20)
                os.kill(random.choice(server.workers()), signal.SIGKILL)
                server.signal(signal.SIGTERM)
                tally = load.wait(60)
            assert tally.answered >= CLIENTS - 1, tally
            assert server.wait() == 0


@pytest.mark.parametrize("reuse_port", [False, True])
def test_a_handshake_under_way_is_awaited(prefork_server: ServerFactory, reuse_port: bool) -> None:
    server = probe(prefork_server, workers=4, reuse_port=reuse_port)
    address = parse(server.address)
    deaf = [sockets.deaf_client((address.host, address.port)) for _ in range(5)]
    with sockets.closing(deaf):
        # The SYN is out and answered, the answer is dropped: the server holds a handshake that is half-way.
        server.signal(signal.SIGTERM)
        server.wait_for_log("emptying the accept queues")
        for client in deaf:
            sockets.hear(client)
        for client in deaf:
            client.setblocking(True)
            client.settimeout(30)
            sockets.until(partial(_established, client), "an established connection")
            client.sendall(get("/pid"))
        for client in deaf:
            assert client.recv(100).startswith(b"HTTP/1.1 200")
    assert server.wait() == 0


def test_the_port_is_free_while_a_long_request_is_finished(prefork_server: ServerFactory) -> None:
    with hold_port() as address:
        server = probe(prefork_server, workers=2, bind=address)
        with held(server) as [connection]:
            server.signal(signal.SIGTERM)
            server.wait_for_log("exited with code 0")  # the idle one: the queue is empty, the listener ended
            successor = probe(prefork_server, workers=2, bind=address)
            with burst(successor.address, 20) as load:
                assert load.wait(30).answered == 20
            connection.finish()
        assert server.wait() == 0
        assert successor.stop() == 0


def test_what_graceful_timeout_leaves_is_counted(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=1, graceful_timeout=1)
    with held(server) as [connection], burst(server.address, 7) as load:
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert load.wait(30).answered == 0
        assert connection.lost()
    assert "7 connections were still waiting" in server.log()


def test_an_inherited_listener_is_left_alone(prefork_server: ServerFactory) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        options = {"pass_fds": (listener.fileno(),)}
        bind = f"fd://{listener.fileno()}"
        server = probe(prefork_server, workers=2, bind=bind, options=options)
        with held(server, 2) as connections, burst(server.address, 5, payload=get("/pid")) as load:
            server.signal(signal.SIGTERM)
            server.wait_for_log("the listeners stay")
            with board_of(server) as board:
                server.wait_for(
                    lambda: all(view.state is State.STOPPING for view in living(board)), message="both to have heard"
                )
            for connection in connections:
                connection.finish()
            assert server.wait() == 0
            assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
            assert load.tally.total == 0
            successor = probe(prefork_server, workers=2, bind=bind, options=options)
            assert load.wait(30).answered == 5
        assert successor.stop() == 0


def test_a_second_signal_does_not_spoil_it(prefork_server: ServerFactory, tmp_path: Path) -> None:
    server = arranged(prefork_server, "tcp", tmp_path)
    with burst(server.address, CLIENTS, payload=WORK) as load:
        load.wait_for(lambda tally: tally.answered >= 20)
        for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTERM):
            server.signal(signum)
        assert load.wait(60).answered == CLIENTS
    assert server.wait() == 0


def test_a_worker_stopped_by_somebody_is_killed_at_the_deadline(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=2, graceful_timeout=1)
    victim = server.workers()[0]
    os.kill(victim, signal.SIGSTOP)
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 20
    wait_gone(victim)
