"""The gate of a listener: what it lets through, and whom it still waits for once it has closed."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefork.net import syn_gate
from prefork.net.ipsocket import IPSocket
from prefork.net.queue import Cookies, Diag, tcp_depth
from prefork.net.reuseport.group import SHARED, Group
from prefork.net.syn_gate import PROGRAM, SynGate, gate, may_gate, ungate
from prefork.system.clock import SYSTEM, Clock
from prefork.testing.clock import FakeClock
from tests.support.bpf import run
from tests.support.sockets import SYN_SENT, closing, connect, deaf_client, hear, retries, script, state, until


def test_the_gate_drops_syn_and_nothing_else() -> None:
    for flags in range(256):
        assert run(PROGRAM, {13: flags}) == (0 if flags & 0x02 else 0xFFFFFFFF)


gates = pytest.mark.skipif(
    not may_gate(socket.AF_INET), reason="this kernel lets only CAP_NET_ADMIN attach a filter to a TCP socket"
)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


@pytest.fixture
def listener6() -> Iterator[socket.socket]:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as made:
        yield made


@gates
@pytest.mark.parametrize("name", ["listener", "listener6"])
def test_a_client_at_the_gate_retries_by_itself_and_gets_in_later(name: str, request: pytest.FixtureRequest) -> None:
    listener: socket.socket = request.getfixturevalue(name)
    gate(listener)
    with closing(client := connect(listener.getsockname(), blocking=False)):
        until(lambda: retries(client) >= 1, "the client has repeated its SYN")
        assert state(client) == SYN_SENT
        assert tcp_depth(listener).waiting == 0
        ungate(listener)
        until(lambda: tcp_depth(listener).waiting == 1, "its next SYN has come through")
        accepted, _ = listener.accept()
        with accepted:
            client.sendall(b"hello")
            assert accepted.recv(10) == b"hello"


@gates
def test_a_handshake_under_way_completes_behind_the_gate(listener: socket.socket) -> None:
    with closing(diag := Diag()), closing(client := deaf_client(listener.getsockname())):
        until(lambda: diag.half_open(listener), "its SYN has come")
        gate(listener)
        hear(client)
        accepted, peer = listener.accept()
        with accepted:
            assert peer == client.getsockname()
            client.sendall(b"hello")
            assert accepted.recv(10) == b"hello"


@gates
def test_what_was_accepted_behind_the_gate_lives_a_normal_life(listener: socket.socket) -> None:
    """It inherits the filter, which must not touch data, FIN, or what comes after."""
    with closing(client := connect(listener.getsockname())):
        gate(listener)
        accepted, _ = listener.accept()
        with accepted:
            for side, other in ((client, accepted), (accepted, client)):
                side.sendall(bytes(200_000))
                side.shutdown(socket.SHUT_WR)
                received = 0
                while part := other.recv(65536):
                    received += len(part)
                assert received == 200_000


@gates
def test_opening_a_gate_that_is_not_there_is_no_error(listener: socket.socket) -> None:
    ungate(listener)
    gate(listener)
    gate(listener)
    ungate(listener)
    ungate(listener)
    with connect(listener.getsockname()):
        until(lambda: tcp_depth(listener).waiting == 1, "a client gets in")


@pytest.mark.skipif(os.geteuid() != 0, reason="the test becomes nobody, which only root can")
def test_who_may_gate_is_found_out_by_trying() -> None:
    answers = script(
        """
import json, os, socket
from prefork.net.syn_gate import gate, may_gate, ungate
os.setgroups([]); os.setgid(65534); os.setuid(65534)
with socket.socket() as sock:
    answers = [may_gate(socket.AF_INET)]
    try:
        gate(sock)
        answers.append(True)
    except PermissionError:
        answers.append(False)
    ungate(sock)
print(json.dumps(answers))
"""
    )
    assert answers in ([True, True], [False, False])


def test_other_errors_of_opening_are_told() -> None:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, 44, 1)  # SO_LOCK_FILTER
        with pytest.raises(PermissionError):
            ungate(sock)


# Clients of whom the kernel remembers nothing but a SYN cookie: the gate waits until none has come for a while.


class Counted(Diag):
    """Says what a test wants of cookies, which the kernel sends only when a queue of handshakes is full."""

    told = Cookies(7, 3)

    def cookies(self) -> Cookies:
        return self.told


def listening() -> IPSocket:
    sock = IPSocket()
    sock.tcp_socket()
    sock.bind("127.0.0.1", 0)
    sock.listen()
    return sock


def closed(listener: IPSocket, diag: Counted, now: Cookies, clock: Clock = SYSTEM) -> SynGate:
    """A gate that was made at seven cookies, and closes at ``now``."""
    if not may_gate(listener.family):
        pytest.skip("the kernel lets this user attach no filter")
    made = SynGate(Group({SHARED: listener}, diag), diag, clock)
    diag.told = now
    made.close([SHARED])
    return made


def test_where_no_cookie_was_sent_nobody_waits() -> None:
    diag = Counted()
    with listening() as listener:
        made = closed(listener, diag, Cookies(7, 3))
        assert not made.pending([SHARED])
    diag.close()


def test_a_cookie_that_was_sent_is_awaited_until_none_comes_back() -> None:
    diag, clock = Counted(), FakeClock()
    with listening() as listener:
        made = closed(listener, diag, Cookies(8, 3), clock)
        assert made.pending([SHARED])
        clock.advance(0.6 * syn_gate.COOKIES)
        diag.told = Cookies(8, 4)  # what comes back begins the quiet time anew
        assert made.pending([SHARED])
        clock.advance(0.9 * syn_gate.COOKIES)
        assert made.pending([SHARED])
        clock.advance(0.2 * syn_gate.COOKIES)
        assert not made.pending([SHARED])
        made.open([SHARED], defer_accept=0)
        made.close([SHARED])
        assert made.pending([SHARED]), "one that closes again waits again"
    diag.close()


def test_other_listeners_cookies_hold_up_no_stop_for_ever() -> None:
    diag, clock = Counted(), FakeClock()
    with listening() as listener:
        made = closed(listener, diag, Cookies(8, 3), clock)
        passed, step = 0.0, syn_gate.COOKIES / 2
        while passed + step < syn_gate.COOKIES_MOST:
            clock.advance(step)
            passed += step
            diag.told = Cookies(8, diag.told.received + 1)
            assert made.pending([SHARED])
        clock.advance(step)
        diag.told = Cookies(8, diag.told.received + 1)
        assert not made.pending([SHARED])
    diag.close()


def test_the_kernel_s_counters_are_read() -> None:
    diag = Diag()
    names, values = re.findall(r"^TcpExt: (.*)$", Path("/proc/net/netstat").read_text("ascii"), re.MULTILINE)
    found = dict(zip(names.split(), map(int, values.split()), strict=True))
    read = diag.cookies()
    assert (read.sent - found["SyncookiesSent"], read.received - found["SyncookiesRecv"]) >= (0, 0)
    diag.close()
    assert diag.cookies() == Cookies(0, 0)
    assert diag.descriptors == ()
