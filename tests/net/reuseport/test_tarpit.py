"""The gate of those who may not attach a filter: a member that answers nobody. None of this needs privilege."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from prefork.net.queue import tcp_depth
from prefork.net.reuseport import steering
from prefork.net.reuseport.tarpit import Tarpit, reach
from tests.support.sockets import SYN_SENT, closing, connect, deaf_client, hear, retries, script, state, until

HOSTS = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::1"), (socket.AF_INET6, "::")]


@pytest.fixture(params=HOSTS, ids=lambda host: host[1])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    family, host = request.param
    with socket.create_server((host, 0), family=family, dualstack_ipv6=host == "::") as made:
        yield made


@contextlib.contextmanager
def lured(listener: socket.socket, *, full: bool = True) -> Iterator[Tarpit]:
    """A tarpit in the listener's group, to which every SYN is steered."""
    tarpit = Tarpit(listener.family)
    try:
        tarpit.join(listener)
        steering.steer(listener, [1], "random")
        if full:
            tarpit.fill()
        yield tarpit
    finally:
        steering.unsteer(listener)
        tarpit.leave()


def doors(listener: socket.socket) -> list[Any]:
    """All ways in: a dual-stack listener has one for IPv4 too."""
    name = reach(listener).as_tuple()
    return [name, ("127.0.0.1", name[1])] if listener.getsockname()[0] == "::" else [name]


def knock(address: Any, ttl: int) -> socket.socket:
    """A client that has sent its SYN with this TTL; over loopback it arrives with it."""
    client = socket.socket(socket.AF_INET6 if len(address) == 4 else socket.AF_INET)
    client.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
    if client.family == socket.AF_INET6:
        client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)
    client.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        client.connect(address)
    return client


def test_a_client_at_the_tarpit_retries_by_itself_and_gets_in_later(listener: socket.socket) -> None:
    clients: list[socket.socket] = []
    with closing(clients):
        with lured(listener):
            clients += [connect(door, blocking=False) for door in doors(listener) for _ in range(3)]
            until(lambda: all(retries(client) for client in clients), "all have repeated their SYN")
            assert {state(client) for client in clients} == {SYN_SENT}
            assert tcp_depth(listener).waiting == 0
        until(lambda: tcp_depth(listener).waiting == len(clients), "they have come through")


@pytest.mark.parametrize("full", [True, False], ids=["full", "not yet full"])
def test_no_lifetime_of_a_packet_gets_past_it(listener: socket.socket, full: bool) -> None:
    """Before its queue is full, one that no router has shortened would."""
    lifetimes = [1, 64, 254, 255] if full else [1, 64, 254]
    clients: list[socket.socket] = []
    with lured(listener, full=full), closing(clients):
        clients += [knock(door, ttl) for door in doors(listener) for ttl in lifetimes for _ in range(2)]
        until(lambda: all(retries(client) for client in clients), "all have repeated their SYN")
        assert {state(client) for client in clients} == {SYN_SENT}


def test_a_handshake_under_way_completes_at_the_listener(listener: socket.socket) -> None:
    clients = [deaf_client(door) for door in doors(listener)]
    with closing(clients), lured(listener):
        for client in clients:
            hear(client)
        for _ in clients:
            accepted, peer = listener.accept()
            with accepted:
                (client,) = [one for one in clients if one.getsockname()[1] == peer[1]]
                client.sendall(b"hello")
                assert accepted.recv(10) == b"hello"  # nothing of the tarpit's is inherited


def test_it_leaves_nothing_behind(listener: socket.socket) -> None:
    before = os.listdir("/proc/self/fd")
    with lured(listener):
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 1
    assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 0
    assert os.listdir("/proc/self/fd") == before
    for door in doors(listener):
        connect(door).close()
    until(lambda: tcp_depth(listener).waiting == len(doors(listener)), "everybody gets in")


def test_one_that_was_never_used_is_closed() -> None:
    before = os.listdir("/proc/self/fd")
    tarpit = Tarpit(socket.AF_INET)
    tarpit.leave()
    tarpit.close()
    assert os.listdir("/proc/self/fd") == before


def test_while_it_waits_to_be_used_the_port_is_not_shared(listener: socket.socket) -> None:
    with closing(Tarpit(listener.family)), socket.socket(listener.family) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
            other.bind(listener.getsockname())


def test_it_leaves_even_when_a_worker_holds_a_copy() -> None:
    """A worker that is forked behind the gate inherits the tarpit; the master's leaving must be enough."""
    answer = script(
        """
import json, os, socket
from prefork.net.reuseport import steering
from prefork.net.reuseport.tarpit import Tarpit
from prefork.net.queue import Diag
listener = socket.create_server(("127.0.0.1", 0))
tarpit = Tarpit(socket.AF_INET)
tarpit.join(listener)
steering.steer(listener, [1], "random")
tarpit.fill()
told, tell = os.pipe()
child = os.fork()
if not child:
    os.close(tell)
    os.read(told, 1)
    os._exit(0)
diag = Diag()
counts = [len(diag.group(listener))]
steering.unsteer(listener)
tarpit.leave()
counts.append(len(diag.group(listener)))
socket.create_connection(listener.getsockname()).close()
os.close(tell)
os.waitpid(child, 0)
for thing in (listener, diag):
    thing.close()
os.close(told)
print(json.dumps(counts))
"""
    )
    assert answer == [2, 1]


@pytest.mark.skipif(
    os.geteuid() != 0, reason="who can't become nobody is without CAP_NET_ADMIN anyway: see test_listener"
)
def test_nobody_gates_a_listener_and_loses_nobody() -> None:
    """The whole of it without any capability, on whatever this kernel allows."""
    answers = script(
        """
import json, os, socket
from prefork.config.address import parse
from prefork.net.listener import Listener
from tests.support.sockets import SYN_SENT, connect, deaf_client, hear, state, until
os.setgroups([]); os.setgid(65534); os.setuid(65534)
listener = Listener.open(parse("127.0.0.1:0"))
address = listener.sockets[0].getsockname()
waits, slow = connect(address), deaf_client(address)
until(lambda: listener.waiting() == 1, "one waits")
answers = [listener.gate(), listener.shutdown()]
late = connect(address, blocking=False)
hear(slow)
until(lambda: listener.waiting() == 2, "the slow one is through")
answers += [state(late) == SYN_SENT, listener.shutdown()]
for _ in range(2):
    listener.sockets[0].accept()[0].close()
answers += [listener.empty(), listener.shutdown()]
for thing in (waits, slow, late, listener):
    thing.close()
print(json.dumps(answers))
"""
    )
    assert answers == [True, False, True, False, True, True]
