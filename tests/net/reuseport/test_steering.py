"""The steering of SO_REUSEPORT groups, on real sockets and in a small interpreter."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.net.queue import tcp_depth
from prefork.net.reuseport.steering import MEMBERS_MAX, Spread, steer, steering, unsteer
from prefork.net.syn_gate import gate, may_gate
from tests.support.bpf import run
from tests.support.sockets import closing, connect, until

_RANDOM, _CPU = 0xFFFFF038, 0xFFFFF024


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
    steer(group[0], [index], "random")
    assert spread(group, 20) == [20 if member == index else 0 for member in range(3)]


def test_two_of_three_share_at_random(group: list[socket.socket]) -> None:
    steer(group[2], [2, 0], "random")
    first, none, last = spread(group, 80)
    assert none == 0
    assert first > 5  # one in 10**15 falls short
    assert last > 5


@pytest.mark.parametrize("mode", ["random", "cpu"])
def test_a_program_replaces_the_one_before(group: list[socket.socket], mode: Spread) -> None:
    steer(group[0], [0], mode)
    steer(group[1], [1], mode)
    assert spread(group, 10) == [0, 10, 0]


def test_the_cpu_that_got_the_syn_chooses(group: list[socket.socket]) -> None:
    steer(group[0], range(3), "cpu")
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
    steer(group[1], [0], "random")
    assert spread(group[1:], 10) == [0, 10]
    steer(group[1], [1], "random")
    assert spread(group[1:], 10) == [10, 0]


def test_unsteered_the_kernel_s_hash_chooses_among_all(group: list[socket.socket]) -> None:
    unsteer(group[0])
    steer(group[0], [0], "random")
    unsteer(group[1])
    unsteer(group[1])
    assert all(share > 3 for share in spread(group, 120))  # one in 10**15 falls short


@pytest.mark.skipif(not may_gate(socket.AF_INET), reason="this kernel lets only CAP_NET_ADMIN attach a filter")
def test_a_member_behind_a_gate_gets_nothing_and_the_others_go_on(group: list[socket.socket]) -> None:
    gate(group[0])
    steer(group[0], [1, 2], "random")
    assert spread(group, 20)[0] == 0
