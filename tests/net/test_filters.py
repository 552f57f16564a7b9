"""The SYN gate and the steering of SO_REUSEPORT groups, on real sockets and in a small interpreter."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.net import filters
from prefork.net.filters import MEMBERS_MAX, SYN_GATE, Program, Spread, steering
from prefork.net.queue import Diag, tcp_depth
from tests.support.sockets import SYN_SENT, closing, connect, deaf_client, hear, retries, script, state, until

_RANDOM, _CPU = 0xFFFFF038, 0xFFFFF024


def run(program: Program, load: dict[int, int]) -> int:
    """What a program returns when a load from an offset gives ``load[offset]``: as much of the machine as is used."""
    accumulator = at = 0
    while True:
        code, jt, jf, k = program[at]
        at += 1
        match code:
            case 0x20 | 0x30:
                accumulator = load[k]
            case 0x94:
                accumulator %= k
            case 0x15:
                at += jt if accumulator == k else jf
            case 0x45:
                at += jt if accumulator & k else jf
            case 0x06:
                return k
            case 0x16:
                return accumulator
            case _:
                raise AssertionError(f"unknown instruction {code:#x}")


def test_the_gate_drops_syn_and_nothing_else() -> None:
    for flags in range(256):
        assert run(SYN_GATE, {13: flags}) == (0 if flags & 0x02 else 0xFFFFFFFF)


@given(indices=st.lists(st.integers(0, 5000), min_size=1, max_size=40, unique=True), number=st.integers(0, 2**32 - 1))
def test_steering_chooses_each_member_by_the_number_modulo_their_count(indices: list[int], number: int) -> None:
    expected = indices[number % len(indices)]
    assert run(steering(indices, "random"), {_RANDOM: number}) == expected
    assert run(steering(indices, "cpu"), {_CPU: number}) == expected


def test_steering_over_all_is_three_instructions() -> None:
    assert len(steering(range(64), "random")) == 3


@pytest.mark.parametrize("count", [0, MEMBERS_MAX + 1])
def test_steering_refuses_what_no_program_can_hold(count: int) -> None:
    with pytest.raises(ValueError, match=rf"^{count} members"):
        steering(range(count), "random")


def _may_gate() -> bool:
    with socket.socket() as sock:
        return filters.may_gate(sock)


gates = pytest.mark.skipif(
    not _may_gate(), reason="this kernel lets only CAP_NET_ADMIN attach a filter to a TCP socket"
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
    filters.gate(listener)
    with closing(client := connect(listener.getsockname(), blocking=False)):
        until(lambda: retries(client) >= 1, "the client has repeated its SYN")
        assert state(client) == SYN_SENT
        assert tcp_depth(listener).waiting == 0
        filters.ungate(listener)
        until(lambda: tcp_depth(listener).waiting == 1, "its next SYN has come through")
        accepted, _ = listener.accept()
        with accepted:
            client.sendall(b"hello")
            assert accepted.recv(10) == b"hello"


@gates
def test_a_handshake_under_way_completes_behind_the_gate(listener: socket.socket) -> None:
    with closing(diag := Diag()), closing(client := deaf_client(listener.getsockname())):
        until(lambda: diag.half_open(listener), "its SYN has come")
        filters.gate(listener)
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
        filters.gate(listener)
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
    filters.ungate(listener)
    filters.gate(listener)
    filters.gate(listener)
    filters.ungate(listener)
    filters.ungate(listener)
    with connect(listener.getsockname()):
        until(lambda: tcp_depth(listener).waiting == 1, "a client gets in")


@pytest.mark.skipif(os.geteuid() != 0, reason="the test becomes nobody, which only root can")
def test_who_may_gate_is_found_out_by_trying() -> None:
    answers = script(
        """
import json, os, socket
from prefork.net import filters
os.setgroups([]); os.setgid(65534); os.setuid(65534)
with socket.socket() as sock:
    answers = [filters.may_gate(sock)]
    try:
        filters.gate(sock)
        answers.append(True)
    except PermissionError:
        answers.append(False)
    filters.ungate(sock)
print(json.dumps(answers))
"""
    )
    assert answers in ([True, True], [False, False])


def test_other_errors_of_opening_are_told() -> None:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, 44, 1)  # SO_LOCK_FILTER
        with pytest.raises(PermissionError):
            filters.ungate(sock)


@pytest.fixture
def group() -> Iterator[list[socket.socket]]:
    members: list[socket.socket] = []
    with closing(members):
        for _ in range(3):
            member = socket.socket()
            member.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            member.bind(members[0].getsockname() if members else ("127.0.0.1", 0))
            member.listen(256)
            members.append(member)
        yield members


def spread(group: list[socket.socket], count: int) -> list[int]:
    """How many of ``count`` new connections each member gets."""
    clients = [connect(group[0].getsockname()) for _ in range(count)]
    with closing(clients):
        until(lambda: sum(tcp_depth(member).waiting for member in group) == count, "all have arrived")
        shares = [tcp_depth(member).waiting for member in group]
        for member, share in zip(group, shares, strict=True):
            for _ in range(share):
                member.accept()[0].close()
        return shares


@pytest.mark.parametrize("index", [0, 1, 2])
def test_one_member_gets_all(group: list[socket.socket], index: int) -> None:
    filters.steer(group[0], [index], "random")
    assert spread(group, 20) == [20 if member == index else 0 for member in range(3)]


def test_two_of_three_share_at_random(group: list[socket.socket]) -> None:
    filters.steer(group[2], [2, 0], "random")
    first, none, last = spread(group, 80)
    assert none == 0
    assert first > 5  # one in 10**15 falls short
    assert last > 5


@pytest.mark.parametrize("mode", ["random", "cpu"])
def test_a_program_replaces_the_one_before(group: list[socket.socket], mode: Spread) -> None:
    filters.steer(group[0], [0], mode)
    filters.steer(group[1], [1], mode)
    assert spread(group, 10) == [0, 10, 0]


def test_the_cpu_that_got_the_syn_chooses(group: list[socket.socket]) -> None:
    filters.steer(group[0], range(3), "cpu")
    before = os.sched_getaffinity(0)
    try:
        for cpu in before:
            os.sched_setaffinity(0, {cpu})  # over loopback the sender's CPU receives as well
            assert spread(group, 10)[cpu % 3] == 10
    finally:
        os.sched_setaffinity(0, before)


def test_the_last_member_takes_the_place_of_one_that_leaves(group: list[socket.socket]) -> None:
    """What `prefork.net.reuseport.group` relies on: the order of listen(2), and who moves into the hole."""
    group[0].shutdown(socket.SHUT_RDWR)
    filters.steer(group[1], [0], "random")
    assert spread(group[1:], 10) == [0, 10]
    filters.steer(group[1], [1], "random")
    assert spread(group[1:], 10) == [10, 0]


def test_unsteered_the_kernel_s_hash_chooses_among_all(group: list[socket.socket]) -> None:
    filters.unsteer(group[0])
    filters.steer(group[0], [0], "random")
    filters.unsteer(group[1])
    filters.unsteer(group[1])
    assert all(share > 3 for share in spread(group, 120))  # one in 10**15 falls short


@gates
def test_a_member_behind_a_gate_gets_nothing_and_the_others_go_on(group: list[socket.socket]) -> None:
    filters.gate(group[0])
    filters.steer(group[0], [1, 2], "random")
    assert spread(group, 20)[0] == 0
