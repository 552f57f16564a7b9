"""Connections that a protocol of one's own parks, and the queue through which they go from one worker to another."""

from __future__ import annotations

import contextlib
import signal
import socket
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefork.accept.parked_connections import ParkedConnection, ParkedConnections
from prefork.accept.return_queue import AT_ONCE, ReturnQueue
from prefork.config.settings import Settings
from prefork.net.proxy_protocol import read_header
from prefork.testing import call_until, connect
from prefork.testing.plugin import ServerFactory
from prefork.testing.processes import freeze, limited_descriptors, thaw
from tests.support.proxy_headers import inet, tlv, v2

APPS = Path(__file__).parents[1] / "support" / "apps"


@pytest.fixture
def queue() -> Iterator[ReturnQueue]:
    made = ReturnQueue()
    yield made
    made.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def pair(listener: socket.socket, state: bytes = b"", requests: int = 1) -> tuple[socket.socket, ParkedConnection]:
    client = socket.create_connection(listener.getsockname())
    one = ParkedConnection(*listener.accept(), requests, state)
    one.since = 12.5
    return client, one


def test_what_is_put_in_comes_out(queue: ReturnQueue, listener: socket.socket) -> None:
    pairs = [pair(listener, b"x" * number * 100, number) for number in range(AT_ONCE + 3)]
    pairs[2][1].ready = True
    some = [one for _, one in pairs]
    assert (queue.put(some), queue.put(some[AT_ONCE:])) == (AT_ONCE, 3)
    for one in some:
        one.connection.close()
    taken = [*(queue.take() or ()), *(queue.take() or ())]
    assert queue.take() is None
    assert [(one.requests, one.state, one.since, one.ready) for one in taken] == [
        (number, b"x" * number * 100, 12.5, number == 2) for number in range(AT_ONCE + 3)
    ]
    for (client, _), one in zip(pairs, taken, strict=True):
        assert one.address == client.getsockname()
        one.connection.sendall(b"it is the same one")
        assert client.recv(100) == b"it is the same one"
        client.close()
        one.connection.close()


def test_what_a_proxy_has_said_goes_with_a_connection(queue: ReturnQueue, listener: socket.socket) -> None:
    pairs = [pair(listener, b"state %d" % number) for number in range(3)]
    for number, header in ((0, v2(inet("203.0.113.9", 7) + tlv(0x05, bytes(128)))), (2, v2(command=0x20, family=0))):
        pairs[number][1].proxy = read_header(header)
    assert queue.put([one for _, one in pairs]) == 3
    taken = queue.take() or []
    assert [one.proxy for one in taken] == [one.proxy for _, one in pairs]
    assert [one.state for one in taken] == [b"state 0", b"state 1", b"state 2"]
    assert [one.address for one in taken] == [("203.0.113.9", 7), *(client.getsockname() for client, _ in pairs[1:])]
    for client, one in pairs:
        client.close()
        one.connection.close()
    for one in taken:
        one.connection.close()


def test_who_is_closed_while_somebody_else_looks_is_no_error(listener: socket.socket) -> None:
    parking = ParkedConnections(Settings(keepalive=60), memoryview(array("q", bytes(8 * 256))))
    client, one = pair(listener)
    with client:
        assert parking.admit(one)
        client.sendall(b"the next request")
        assert [fd for fd, _ in parking.look(5, AT_ONCE)] == [one.fd]
        one.connection.close()  # by whoever has it in hand, while another thread has just heard of it
        parking.look_away(one)
        assert not one.watched
        parking.forget(one)
        assert len(parking) == 0


def test_a_full_queue_takes_nothing_and_loses_nothing(queue: ReturnQueue, listener: socket.socket) -> None:
    client, one = pair(listener)
    count = 0
    while queue.put([one]):
        count += 1
        assert count < 100_000
    for _ in range(count):
        taken = queue.take()
        assert taken is not None
        taken[0].connection.close()
    assert queue.take() is None
    assert queue.put([one]) == 1
    for each in (client, one.connection):
        each.close()


def test_messages_of_another_form_are_dropped_with_what_they_hold(queue: ReturnQueue, listener: socket.socket) -> None:
    client, one = pair(listener)
    for message in (b"", b"\x01", b"\x03\x00\x01\x00" + bytes(40), b"\x01\x00\x05\x00"):
        socket.send_fds(queue.inward, [message or b"x"], [one.connection.fileno()])
        assert queue.take() == []
    one.connection.close()
    assert client.recv(1) == b""
    client.close()


def test_state_goes_with_a_connection_from_worker_to_worker(prefork_server: ServerFactory) -> None:
    server = prefork_server("counting:Counting", app_dir=APPS, workers=2, keepalive=60)
    clients = [connect(server.address) for _ in range(5)]
    pids: dict[int, set[int]] = {}
    for count in range(1, 4):
        for client in clients:
            client.sendall(b"next\n")
        for client in clients:
            said, pid = client.recv(100).split()
            assert int(said) == count
            pids.setdefault(count, set()).add(int(pid))
        if count == 2:
            before = set(server.workers())
            server.signal(signal.SIGHUP)
            server.wait_for(lambda: not before & set(server.workers()))  # noqa: B023  # it is waited for here
    assert not pids[3] & (pids[1] | pids[2])  # how many of the two serve five clients is the kernel's choice
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    for client in clients:
        assert client.recv(1) == b""
        client.close()


def test_at_the_limit_of_descriptors_only_the_silent_are_closed(prefork_server: ServerFactory) -> None:
    """recvmsg(2) closes what it finds no descriptors for, and who is closed to make room for others may be speaking."""
    server = prefork_server("counting:Counting", app_dir=APPS, workers=2, keepalive=60, control="off")
    with contextlib.ExitStack() as stack:
        clients: list[socket.socket] = []
        served: dict[int, list[socket.socket]] = {}

        def come() -> None:
            client = stack.enter_context(connect(server.address))
            client.sendall(b"next\n")
            served.setdefault(int(client.recv(100).split()[1]), []).append(client)
            clients.append(client)

        for _ in range(40):
            come()
        call_until(come, lambda _: len(served) == 2, message="each worker to keep some")
        stays, leaves = server.workers()  # the master's children, the eldest first, and the last slot goes first
        freeze([stays])
        server.signal(signal.SIGTTOU)
        server.wait_for(lambda: server.workers() == [stays])  # and all that it had is in the queue
        for client in served[leaves]:
            client.sendall(b"next\n")
        with limited_descriptors([stays]):
            thaw([stays])
            for client in served[leaves]:
                assert client.recv(100).split() == [b"2", b"%d" % stays]
        for client in clients:
            with contextlib.suppress(ConnectionError):
                client.sendall(b"next\n")
        left = [client for client in clients if said(client)]
        assert len(left) >= len(clients) - len(served[leaves]) - AT_ONCE


def said(client: socket.socket) -> bytes:
    """What comes, or nothing where the server has closed."""
    try:
        return client.recv(100)
    except ConnectionError:
        return b""
