"""Knocking finds out who has which index, and nobody who listens notices."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from prefork.net.queue import Diag, tcp_depth
from prefork.net.reuseport import steering
from prefork.net.reuseport.order import OrderFinder
from tests.support.sockets import closing, connect, script, until

HOSTS = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::1"), (socket.AF_INET6, "::")]


def member(like: socket.socket | None = None, family: int = socket.AF_INET, host: str = "127.0.0.1") -> socket.socket:
    made = socket.socket(like.family if like is not None else family)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(like.getsockname() if like is not None else (host, 0))
    made.listen(64)
    return made


@pytest.fixture(params=HOSTS, ids=lambda host: host[1])
def group(request: pytest.FixtureRequest) -> Iterator[list[socket.socket]]:
    members = [member(None, *request.param)]
    with closing(members):
        members += [member(members[0]) for _ in range(4)]
        yield members


@pytest.fixture
def finder(group: list[socket.socket]) -> Iterator[OrderFinder]:
    with closing(made := OrderFinder(group[0].family)):
        yield made


def test_the_order_of_listening(group: list[socket.socket], finder: OrderFinder) -> None:
    assert finder.find(dict(enumerate(group)), 5) == [0, 1, 2, 3, 4]


def test_after_some_have_left(group: list[socket.socket], finder: OrderFinder) -> None:
    for gone in (1, 0):
        group[gone].shutdown(socket.SHUT_RDWR)
    left = {slot: group[slot] for slot in (2, 3, 4)}
    assert finder.find(left, 3) == [3, 4, 2]  # 4 into the hole of 1, then 3 into that of 0


def test_beside_others_theirs_are_blank(group: list[socket.socket], finder: OrderFinder) -> None:
    assert finder.find({7: group[1], 3: group[4]}, 5) == [None, 7, None, None, 3]


def test_nobody_notices(group: list[socket.socket], finder: OrderFinder) -> None:
    with closing(diag := Diag()):
        finder.find({0: group[0]}, 5)
        assert [tcp_depth(one).waiting for one in group] == [0] * 5
        assert not diag.half_open(group[0])


def test_nothing_is_left_attached(group: list[socket.socket], finder: OrderFinder) -> None:
    steering.steer(group[0], [0], "random")
    finder.find(dict(enumerate(group)), 5)
    with pytest.raises(FileNotFoundError):
        group[0].setsockopt(socket.SOL_SOCKET, 68, 0)  # SO_DETACH_REUSEPORT_BPF: there is none


def test_clients_that_come_meanwhile_get_in(group: list[socket.socket], finder: OrderFinder) -> None:
    address = group[0].getsockname()
    address = ("::1" if address[0] == "::" else "127.0.0.1" if address[0] == "0.0.0.0" else address[0], *address[1:])
    clients: list[socket.socket] = []
    with closing(clients):
        for _ in range(20):
            clients += [connect(address, blocking=False) for _ in range(3)]
            assert finder.find(dict(enumerate(group)), 5) == [0, 1, 2, 3, 4]
        until(lambda: sum(tcp_depth(one).waiting for one in group) == 60, "all have come")


def test_a_wrong_count_is_not_believed(group: list[socket.socket], finder: OrderFinder) -> None:
    assert finder.find(dict(enumerate(group)), 4) is None


def test_without_signatures_nothing_is_found_out() -> None:
    assert script(
        """
import errno, json, socket
from prefork.net.reuseport.order import OrderFinder
from tests.support.seccomp import deny
from tests.net.reuseport.test_order import member
some = member()
finder = OrderFinder(socket.AF_INET)
deny("setsockopt", errno.ENOPROTOOPT, argument=2, equal=14)  # TCP_MD5SIG
print(json.dumps(finder.find({0: some}, 1) is None))
some.close()
finder.close()
"""
    )


def test_at_the_descriptor_limit() -> None:
    assert script(
        """
import json, resource, socket
from prefork.net.reuseport.order import OrderFinder
from tests.net.reuseport.test_order import member
first = member()
members = {0: first, 1: member(first)}
finder = OrderFinder(socket.AF_INET)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
print(json.dumps(finder.find(members, 2)))
for thing in (finder, *members.values()):
    thing.close()
"""
    ) == [0, 1]


def test_close_is_idempotent() -> None:
    before = os.listdir("/proc/self/fd")
    finder = OrderFinder(socket.AF_INET6)
    finder.close()
    finder.close()
    assert os.listdir("/proc/self/fd") == before


def test_a_machine_that_is_busy_just_then(
    group: list[socket.socket], finder: OrderFinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However late it is when the process comes to look: the knock was heard."""
    monkeypatch.setattr("prefork.net.reuseport.order._SECONDS", -1.0)
    assert finder.find(dict(enumerate(group)), 5) == [0, 1, 2, 3, 4]
