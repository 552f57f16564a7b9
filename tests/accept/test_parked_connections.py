"""Connections that a protocol of one's own parks, and the queue through which they go from one worker to another."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import struct
from array import array
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from prefork.accept.keepalive_acceptor import KeepaliveAcceptor
from prefork.accept.keeping import Keeping
from prefork.accept.laned_acceptor import LanedKeepaliveAcceptor
from prefork.accept.laned_parking import LanedParking
from prefork.accept.lead import Lead
from prefork.accept.parked_connections import NEW, ParkedConnection, ParkedConnections
from prefork.accept.parking_thread import ParkingThread
from prefork.accept.return_queue import AT_ONCE, ReturnQueue
from prefork.config.settings import Settings
from prefork.net.proxy_protocol import read_header
from prefork.scoreboard.layout import EVICTED, PARKED
from prefork.testing import connect
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


def test_a_limit_of_descriptors_that_has_been_raised_since_counts(listener: socket.socket) -> None:
    """A worker that is forked while its master has few has few at first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    words = memoryview(array("q", bytes(8 * 256)))
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 2, hard))
    try:
        parking = ParkedConnections(Settings(keepalive=60), words)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    few = (free + 2) // 2
    assert parking.most == few
    with contextlib.ExitStack() as stack:
        for _ in range(few + 5):
            client, one = pair(listener)
            stack.enter_context(client)
            stack.enter_context(one.connection)
            assert parking.admit(one)
        assert (len(parking), words[EVICTED]) == (few + 5, 0)


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


@pytest.mark.parametrize("kind", [ParkedConnections, LanedParking])
def test_one_that_was_looked_away_from_and_is_not_kept_is_forgotten(
    kind: type[ParkedConnections], listener: socket.socket
) -> None:
    """Its number is soon another descriptor's, which would be passed on in its place."""
    parking = kind(Settings(keepalive=60), memoryview(array("q", bytes(8 * 256))))
    client, one = pair(listener)
    with client, one.connection:
        assert parking.admit(one)
        parking.in_hand = one
        parking.look_away(one)  # as whoever looks when its client speaks or leaves meanwhile
        assert not parking.over(one.connection, failed=False)
        assert len(parking) == 0


def test_a_number_that_is_given_away_anew_is_another_connection(listener: socket.socket) -> None:
    parking = LanedParking(Settings(keepalive=60), memoryview(array("q", bytes(8 * 256))))
    (left, one), (client, accepted) = pair(listener), pair(listener)
    with left, client:
        assert parking.admit(one)
        parking.in_hand = one
        number = one.connection.detach()  # its handler has closed it, and goes on
        os.dup2(accepted.connection.fileno(), number)
        accepted.connection.close()
        with socket.socket(fileno=number) as connection:
            other = ParkedConnection(connection, None)
            assert parking.admit(other)  # by another lane
            parking.over(one.connection, failed=False)
            client.sendall(b"x")
            assert [fd for fd, _ in parking.look(5, AT_ONCE)] == [number]
            assert parking.members[number] is other
            parking.forget(other)


def test_a_handler_that_closes_what_it_has_parked_costs_nobody_else(listener: socket.socket) -> None:
    parking = ParkedConnections(Settings(keepalive=60), memoryview(array("q", bytes(8 * 256))))
    client, one = pair(listener)
    with client, one.connection:
        assert parking.admit(one)
        for reused in (False, True):
            other, new = pair(listener)
            parking.in_hand = NEW
            assert parking.park(new.connection, new.address, b"", ready=False)
            number = new.connection.detach()
            os.close(number)
            if reused:
                os.dup2(other.fileno(), number)  # say, a connection to a database
            assert not parking.over(new.connection, failed=False)
            assert [*parking.members.values()] == [one]
            other.close()
            if reused:
                os.close(number)
        parking.forget(one)


def test_a_number_whose_connection_was_closed_is_not_passed_on(queue: ReturnQueue, listener: socket.socket) -> None:
    acceptor = KeepaliveAcceptor.__new__(KeepaliveAcceptor)
    parking = ParkedConnections(Settings(keepalive=60), memoryview(array("q", bytes(8 * 256))))
    acceptor._queue, acceptor._parking = queue, parking
    (left, closed), (client, one) = pair(listener), pair(listener)
    with left, client:
        assert parking.admit(closed)
        assert parking.admit(one)
        closed.connection.close()  # by a handler that had it parked
        assert acceptor._hand_over([closed]) == 1
        assert queue.take() is None
        assert acceptor._hand_over([one]) == 1
        (taken,) = queue.take() or []
        assert taken.address == client.getsockname()
        taken.connection.close()
        assert len(parking) == 0


def test_who_stands_by_sees_what_nobody_takes_out_of_the_queue(queue: ReturnQueue, listener: socket.socket) -> None:
    """Whoever seems to be idle may be stopped, and the client on whose connection that was passed on waits."""
    acceptor = LanedKeepaliveAcceptor.__new__(LanedKeepaliveAcceptor)
    acceptor._sockets, acceptor._queue = (listener,), queue
    assert not acceptor.waiting()
    client, one = pair(listener)
    with client, one.connection:
        assert queue.put([one]) == 1
        assert acceptor.waiting()
        for taken in queue.take() or ():
            taken.connection.close()
        assert not acceptor.waiting()


def test_what_a_lane_parks_while_another_waits_is_due_in_time(listener: socket.socket) -> None:
    acceptor, lead = LanedKeepaliveAcceptor.__new__(LanedKeepaliveAcceptor), SimpleNamespace(in_hand=0)
    parking = LanedParking(Settings(keepalive=60), memoryview(array("q", bytes(8 * 256))))
    acceptor.laned, acceptor._lead = parking, cast("Lead", lead)
    assert acceptor._next_due() is None  # nobody is kept, nor will be by anybody but who waits
    lead.in_hand = 1
    assert acceptor._next_due() == 60
    client, one = pair(listener)
    with client, one.connection:
        assert parking.admit(one)
        lead.in_hand = 0
        assert 0 < (acceptor._next_due() or 0) <= 61
        parking.forget(one)


def test_what_is_parked_again_while_its_worker_leaves_is_still_to_be_passed_on(listener: socket.socket) -> None:
    """The master ends a worker with a lane that hangs once it sees nothing of the kind."""
    parking = LanedParking(Settings(keepalive=60), memoryview(array("q", bytes(8 * 256))))
    client, one = pair(listener)
    with client, one.connection:
        assert parking.admit(one)
        parking.leaving, parking.in_hand = True, one
        parking.tell_who_is_left()
        assert parking.words[PARKED] == 0
        assert parking.park(one.connection, one.address, b"", ready=False)
        assert parking.over(one.connection, failed=False)
        assert parking.words[PARKED] == 1
        parking.forget(one)


def test_who_begins_anew_is_not_stuck(listener: socket.socket) -> None:
    """An exception may have come before a handle could say that it has ended."""
    acceptor = KeepaliveAcceptor.__new__(KeepaliveAcceptor)
    parking = acceptor._parking = ParkedConnections(Settings(keepalive=60), memoryview(array("q", bytes(8 * 256))))
    thread = acceptor.parking_thread = ParkingThread(parking, len, lambda: 0)
    acceptor._raw = None
    client, one = pair(listener)
    with client, one.connection:
        thread.began, thread.active, parking.in_hand = 12345, True, one
        assert next(acceptor.connections()) == (one.connection, one.address)
        assert (thread.began, thread.active) == (0, False)


def test_state_that_can_not_be_passed_on_is_refused_at_once(listener: socket.socket) -> None:
    class Kept(Keeping):
        handshakes = False

    kept, (client, one) = Kept(), pair(listener)
    parking = kept._parking = ParkedConnections(Settings(keepalive=60), memoryview(array("q", bytes(8 * 256))))
    with client, one.connection:
        parking.in_hand = NEW
        with pytest.raises(TypeError):
            kept.park(one.connection, one.address, "a text")  # type: ignore[arg-type]  # what users do
        state = bytearray(b"x")
        assert kept.park(one.connection, one.address, state)
        state += b"y"
        assert parking.in_hand.state == b"x"


@pytest.mark.parametrize("ready", [False, True])
def test_who_waits_to_be_served_does_not_expire(listener: socket.socket, ready: bool) -> None:
    parking = ParkedConnections(Settings(keepalive=60), memoryview(array("q", bytes(8 * 256))))
    (client, one), (silent, other) = pair(listener), pair(listener)
    with client, silent, one.connection:
        one.ready = ready
        assert parking.admit(one)
        assert parking.admit(other)
        if not ready:
            client.sendall(b"a request")
            assert parking.look(5, AT_ONCE)
        one.since = other.since = -1000.0
        parking.expire()
        assert parking.members == {one.fd: one}
        assert not parking.evict()
        parking.forget(one)


@pytest.mark.parametrize("proxied", [False, True])
def test_one_that_ends_on_its_way_leaves_the_others_what_is_theirs(
    queue: ReturnQueue, listener: socket.socket, proxied: bool
) -> None:
    pairs = [pair(listener, b"state %d" % number) for number in range(3)]
    for number, (_, one) in enumerate(pairs):
        one.proxy = read_header(v2(inet(f"203.0.113.{number}", 7))) if proxied else None
    assert queue.put([one for _, one in pairs]) == 3
    for _, one in pairs:
        one.connection.close()
    pairs[0][0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    pairs[0][0].close()  # a reset
    taken = queue.take() or []
    assert [one.state for one in taken] == [b"state 1", b"state 2"]
    peers = [("203.0.113.1", 7), ("203.0.113.2", 7)] if proxied else [client.getsockname() for client, _ in pairs[1:]]
    assert [one.address for one in taken] == peers
    for each in (*(client for client, _ in pairs), *(one.connection for one in taken)):
        each.close()


def test_what_is_said_of_a_connection_and_can_not_be_true_costs_that_one(
    queue: ReturnQueue, listener: socket.socket
) -> None:
    pairs = [pair(listener) for _ in range(2)]
    lie = b"no header"
    heads = struct.pack("<IIdBI", 1, 0, 0.0, 0, len(lie)) + struct.pack("<IIdBI", 1, 2**32 - 1, 0.0, 0, 0)
    message = struct.pack("<HH", 2, 2) + heads + lie + b"state"
    socket.send_fds(queue.inward, [message], [one.connection.fileno() for _, one in pairs])
    for _, one in pairs:
        one.connection.close()
    taken = queue.take() or []
    assert [one.state for one in taken] == [b"state"]
    taken[0].connection.close()
    for client, _ in pairs:
        assert client.recv(1) == b""
        client.close()


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
        clients = [stack.enter_context(connect(server.address)) for _ in range(40)]
        stays, leaves = server.workers()  # the master's children, the eldest first, and the last slot goes first

        def kept_by_who_leaves() -> list[socket.socket]:
            """Where each is may change: who keeps more passes some on."""
            for client in clients:
                client.sendall(b"next\n")
            return [client for client in clients if int(client.recv(100).split()[1]) == leaves]

        while not 0 < len(few := kept_by_who_leaves()) <= AT_ONCE // 2:  # those go in one message of the queue
            for client in few[AT_ONCE // 2 :]:
                clients.remove(client)
                client.close()
            if not few:
                clients.append(stack.enter_context(connect(server.address)))
        freeze([stays])
        server.signal(signal.SIGTTOU)
        server.wait_for(lambda: server.workers() == [stays])  # and all that it had is in the queue
        for client in few:
            client.sendall(b"next\n")
        # Not the lowest that is free: it has shared some, and numbers above the limit are of no use when they are free.
        with limited_descriptors([stays], 1 + max(map(int, os.listdir(f"/proc/{stays}/fd")))):
            thaw([stays])
            for client in few:
                assert int(client.recv(100).split()[1]) == stays
        for client in clients:
            with contextlib.suppress(ConnectionError):
                client.sendall(b"next\n")
        left = [client for client in clients if said(client)]
        assert len(left) >= len(clients) - len(few) - AT_ONCE


def said(client: socket.socket) -> bytes:
    """What comes, or nothing where the server has closed."""
    try:
        return client.recv(100)
    except ConnectionError:
        return b""
