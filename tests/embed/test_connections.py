"""What the kernel tells of connections, and what is made of it."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefork.embed import connections
from prefork.embed.connections import Connections, Facts, Last, look
from prefork.net import accepted
from prefork.system import descriptors
from prefork.testing import wait_for
from prefork.testing.clock import FakeClock


@pytest.fixture(params=["inet", "inet6", "unix", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    family = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}.get(request.param, socket.AF_UNIX)
    names: dict[str, tuple[str, int] | str] = {
        "inet": ("127.0.0.1", 0),
        "inet6": ("::1", 0),
        "unix": str(tmp_path / "listener"),
        "abstract": f"\0prefork-connections-{os.getpid()}",
    }
    with socket.socket(family) as made:
        made.bind(names[request.param])
        made.listen()
        yield made


@contextlib.contextmanager
def connected(listener: socket.socket) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client, and what was accepted of it."""
    with socket.socket(listener.family) as client:
        client.settimeout(10)
        client.connect(listener.getsockname())
        accepted, _ = listener.accept()
        with accepted:
            yield client, accepted


def knows_words(listener: socket.socket) -> bool:
    """Whether the kernel tells who has spoken last."""
    return listener.family != socket.AF_UNIX


def test_who_has_spoken_last(listener: socket.socket) -> None:
    with connected(listener) as (client, accepted):
        fresh = look(accepted)
        assert fresh.unread == 0
        assert fresh.last is (Last.NOBODY if knows_words(listener) else Last.UNKNOWN)
        client.sendall(b"hello")
        wait_for(lambda: look(accepted).unread == 5)
        accepted.recv(5)
        if knows_words(listener):
            assert look(accepted).last is Last.CLIENT
            wait_for(lambda: look(accepted).ago > 0)  # a jiffy, in which the kernel counts who spoke last
            assert look(accepted).ago < 10
        accepted.sendall(b"hello")
        assert look(accepted).last is (Last.SERVER if knows_words(listener) else Last.UNKNOWN)


@pytest.mark.parametrize(
    ("facts", "unheard", "idle"),
    [
        (Facts(0, Last.NOBODY), True, True),
        (Facts(1, Last.NOBODY), True, False),
        (Facts(0, Last.NOBODY, open=False), False, True),
        (Facts(0, Last.CLIENT, 0.9), True, False),
        (Facts(0, Last.CLIENT, 1.0), False, False),
        (Facts(0, Last.CLIENT, 0.9, open=False), False, False),
        (Facts(1, Last.CLIENT, 1.0), True, False),
        (Facts(0, Last.SERVER, 0.4), False, False),
        (Facts(0, Last.SERVER, 0.5), False, True),
        (Facts(1, Last.SERVER, 0.5), True, False),
        (Facts(0, Last.UNKNOWN), False, False),
        (Facts(1, Last.UNKNOWN), True, False),
    ],
)
def test_what_is_made_of_it(facts: Facts, unheard: bool, idle: bool) -> None:
    assert (facts.unheard, facts.idle(connections.PATIENCE)) == (unheard, idle)


def test_a_client_who_has_left_without_a_word_is_not_waited_for(listener: socket.socket) -> None:
    with connected(listener) as (client, accepted):
        client.close()
        wait_for(lambda: not look(accepted).unheard)


def test_a_client_has_time_for_its_other_half(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    if not knows_words(listener):
        pytest.skip("nobody knows who has spoken last")
    monkeypatch.setattr(connections, "GRACE", 60.0)
    with connected(listener) as (client, accepted):
        client.sendall(b"half")
        assert accepted.recv(10) == b"half"
        pauses = Connections([listener]).unread()
        assert next(pauses) > 0
        monkeypatch.setattr(connections, "GRACE", 0.0)  # it is over for the client: nobody has said more
        assert list(pauses) == []


def test_unread_waits_for_clients_to_speak_and_for_the_server_to_read(listener: socket.socket) -> None:
    ours = Connections([listener])
    assert list(ours.unread()) == []
    with connected(listener) as (client, accepted):
        client.sendall(b"x")
        pauses = ours.unread()
        assert next(pauses) > 0
        accepted.recv(1)
        accepted.sendall(b"x")
        assert (list(pauses) == []) is knows_words(listener)


def test_unread_waits_for_who_may_speak_where_nobody_tells(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as who is idle can't be told from a client who is new, he is waited for."""
    if knows_words(listener):
        pytest.skip("who has spoken last is known")
    clock = FakeClock()
    monkeypatch.setattr(connections, "time", clock)
    monkeypatch.setattr(connections, "GRACE", 60.0)
    ours = Connections([listener])
    with connected(listener) as (client, accepted):
        pauses = ours.unread()
        assert next(pauses) > 0
        clock.advance(0.9 * connections.QUIET)
        client.sendall(b"x")
        assert next(pauses) > 0
        accepted.recv(1)
        clock.advance(0.9 * connections.QUIET)
        assert next(pauses) > 0
        clock.advance(0.2 * connections.QUIET)
        assert list(pauses) == []
        hanging_up = ours.hang_up()
        next(hanging_up)  # no time begins anew
        assert accepted.recv(1) == b""


def test_unread_waits_no_longer_than_the_grace(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "GRACE", 0.1)
    with connected(listener) as (client, _):
        client.sendall(b"x")
        began = time.monotonic()
        for pause in Connections([listener]).unread():
            time.sleep(pause)  # as whoever uses it
        assert 0.1 <= time.monotonic() - began < 10


def test_hang_up_ends_what_is_idle_and_leaves_what_is_in_hand(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "GRACE", 60.0)  # after which it is hung up on whoever there is
    monkeypatch.setattr(connections, "QUIET", 0.05)
    monkeypatch.setattr(connections, "PATIENCE", 0.05)
    with connected(listener) as (client, accepted), connected(listener) as (_, idle):
        client.sendall(b"request")
        pauses = Connections([listener]).hang_up()
        # The bytes that have come stay to be read, whatever becomes of the connection.
        time.sleep(next(pauses))  # as whoever uses it
        assert accepted.recv(100) == b"request"
        time.sleep(0.1)  # on AF_UNIX it counts as idle now, because nobody can tell
        next(pauses)
        assert idle.recv(1) == b""
        if knows_words(listener):
            accepted.setblocking(False)
            with pytest.raises(BlockingIOError):
                accepted.recv(1)
        accepted.setblocking(True)
        accepted.sendall(b"answer")
        time.sleep(0.1)  # as above
        next(pauses)
        assert client.recv(100) == b"answer"
        assert accepted.recv(1) == b""
        idle.close()
        accepted.close()
        assert list(pauses) == []


def test_a_client_who_never_pauses_is_hung_up_on_in_the_end(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not knows_words(listener):
        pytest.skip("nobody knows who has spoken last")
    clock = FakeClock()
    monkeypatch.setattr(connections, "time", clock)
    monkeypatch.setattr(connections, "PATIENCE", 60)
    with connected(listener) as (_, accepted):
        accepted.sendall(b"go on")
        accepted.setblocking(False)
        pauses = Connections([listener]).hang_up()
        next(pauses)
        with pytest.raises(BlockingIOError):
            accepted.recv(1)
        clock.advance(connections.GRACE)
        next(pauses)
        assert accepted.recv(1) == b""


def test_only_connections_of_these_listeners_are_meant(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        stack.enter_context(connected(other))
        pair = socket.socketpair()
        for end in pair:
            stack.enter_context(end)
        assert list(Connections([listener]).hang_up()) == []
        with connected(listener) as (client, _):
            client.sendall(b"x")
            assert next(Connections([listener]).unread()) > 0
            monkeypatch.setattr(connections, "GRACE", 0.05)  # for which it is looked at without a pause
            assert list(Connections([other]).unread()) != []  # nobody has spoken there


def test_names_are_taken_at_once(listener: socket.socket) -> None:
    """A sealed listener's descriptor holds another socket, and a listener that was shut down is no connection."""
    ours = Connections([listener])
    with connected(listener) as (client, _), socket.socket(listener.family) as inert:
        client.sendall(b"x")
        os.dup2(inert.fileno(), listener.fileno())
        assert next(ours.unread()) > 0
    assert list(ours.hang_up()) == []


def test_a_listener_that_was_shut_down_is_no_connection(listener: socket.socket) -> None:
    ours = Connections([listener])
    listener.shutdown(socket.SHUT_RDWR)
    assert list(ours.hang_up()) == []


def test_looking_leaves_no_descriptor_open(listener: socket.socket) -> None:
    ours = Connections([listener])
    with connected(listener) as (client, _):
        client.sendall(b"x")
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            next(ours.unread())
        assert len(os.listdir("/proc/self/fd")) == before


def test_looking_makes_no_socket_non_blocking(listener: socket.socket) -> None:
    """Whatever default timeout the application has set: siblings share the listener, and its other sockets its own."""
    with connected(listener) as (_, connection), socket.socket() as other:
        assert os.get_blocking(other.fileno())
        socket.setdefaulttimeout(5)
        try:
            assert [number for number, _ in accepted.sockets(frozenset({accepted.name_of(listener)}))]
            descriptors.census()
        finally:
            socket.setdefaulttimeout(None)
        for each in (listener, connection, other):
            assert os.get_blocking(each.fileno())
