"""Listeners in the service manager's store outlive a master that was killed; who waits is served by the next."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from prefork.testing import Load, Server, burst, connect, wait_for
from prefork.testing.plugin import ServerFactory
from tests.support.figures import count
from tests.support.managers import Manager
from tests.support.probing import APPS, get

SERVE = ["serve", "probe:Probe", "--app-dir", str(APPS), "--workers", "3"]


def kill(server: Server) -> None:
    """Kill the master and wait until its orphans are gone too: systemd would end them."""
    server.signal(signal.SIGKILL)
    server.wait()
    server.wait_for(lambda: not server.tree(), message="the end of the orphans")


@pytest.mark.long
@pytest.mark.parametrize("more", [[], ["--reuse-port"], ["--bind", "unix:{tmp}/socket"]], ids=["one", "group", "two"])
def test_a_killed_master_refuses_nobody(prefork_server: ServerFactory, tmp_path: Path, more: list[str]) -> None:
    flags = [*SERVE, "--bind", "127.0.0.1:0", *(flag.format(tmp=tmp_path) for flag in more)]
    with Manager(tmp_path) as manager:
        server = manager.start(prefork_server, flags)
        addresses = list(server.addresses)
        with Load(addresses, clients=16, payload=get("/sleep/0.005")) as load:
            for _ in range(count("killed-masters", least=3)):
                answered = load.tally.answered
                load.wait_for(lambda tally, answered=answered: tally.answered > answered + 50)  # type: ignore[misc]  # mypy can't infer a lambda with a default
                kill(server)
                server = manager.start(prefork_server, flags)
                assert list(server.addresses) == addresses
            answered = load.tally.answered
            load.wait_for(lambda tally: tally.answered > answered + 50)
        kills = count("killed-masters", least=3)
        assert all(loss.outcome.name != "REFUSED" for loss in load.tally.losses), load.tally
        assert load.tally.lost <= 3 * kills, load.tally
        assert server.stop() == 0


@pytest.mark.long
def test_who_waits_is_served_by_the_next_master(prefork_server: ServerFactory, tmp_path: Path) -> None:
    with Manager(tmp_path) as manager:
        server = manager.start(prefork_server, [*SERVE, "--bind", "127.0.0.1:0"])
        address = server.address
        wait_for(lambda: len(manager.store) == 1, message="the store to have the listener")
        kill(server)
        with burst(address, 30, payload=get("/pid")) as load:
            server = manager.start(prefork_server, [*SERVE, "--bind", "127.0.0.1:0"])
            assert load.wait(30).answered == 30
        assert server.stop() == 0
        with burst(address, 5, payload=get("/pid")) as load:  # a stop leaves it too: the manager says when it ends
            server = manager.start(prefork_server, [*SERVE, "--bind", "127.0.0.1:0"])
            assert load.wait(30).answered == 5
        assert server.stop() == 0


def test_sockets_made_with_another_reuse_port_are_one_clear_line(prefork_server: ServerFactory, tmp_path: Path) -> None:
    with Manager(tmp_path) as manager:
        server = manager.start(prefork_server, [*SERVE, "--bind", "127.0.0.1:0"])
        assert server.stop() == 0
        failed = manager.start(
            prefork_server, [*SERVE, "--bind", "127.0.0.1:0", "--reuse-port"], ready="prefork: error: reuse_port: "
        )
        assert failed.wait() == 3
        assert "stop the service once" in failed.log()


def test_an_address_that_is_not_bound_any_more_is_let_go(prefork_server: ServerFactory, tmp_path: Path) -> None:
    with Manager(tmp_path) as manager:
        server = manager.start(prefork_server, [*SERVE, "--bind", "127.0.0.1:0"])
        wait_for(lambda: manager.store, message="the store to have the listener")
        before, address = set(manager.store), server.address
        assert server.stop() == 0
        connect(address).close()  # the store has it, and it listens
        server = manager.start(prefork_server, [*SERVE, "--bind", f"unix:{tmp_path}/socket"])
        with connect(server.address, timeout=30) as client:
            client.sendall(get("/pid"))
            assert client.recv(100).startswith(b"HTTP/1.1 200")
        wait_for(lambda: not before & set(manager.store), message="the store to give it up")
        with pytest.raises(ConnectionRefusedError):
            connect(address)
        assert server.stop() == 0
