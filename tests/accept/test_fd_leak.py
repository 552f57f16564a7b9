"""Handlers that leak descriptors: found before the limit is met, named, replaced, and nobody pays for it."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from prefork.testing import Load, Server, connect
from prefork.testing.plugin import ServerFactory
from tests.support import figures
from tests.support.boards import board_of
from tests.support.probing import APPS, ask, get, line, replaced, told

LIMIT: Final = 64


def leaky(factory: ServerFactory, kind: str = "Leaky", **settings: Any) -> Server:
    """A server of `apps/leaky.py` under a small limit of descriptors."""
    shell = ["sh", "-c", f'ulimit -n {LIMIT} && exec "$@"', "sh"]
    return factory(f"leaky:{kind}", app_dir=APPS, options={"prefix": shell}, **{"workers": 1, **settings})


@pytest.fixture
def upstream() -> Iterator[str]:
    """Somewhere to connect to."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        yield "{}:{}".format(*listener.getsockname())


def test_a_descriptor_a_request_costs_nobody_an_answer(prefork_server: ServerFactory, tmp_path: Path) -> None:
    requests = figures.count("leaking-requests")
    leaked = tmp_path / "forgotten"
    leaked.touch()
    server = leaky(prefork_server, workers=4)
    with Load(server.address, clients=8, count=requests, payload=get(f"/file{leaked}"), timeout=60) as load:
        tally = load.wait()
    assert tally.answered == requests, tally
    censuses = told(server, r"ERROR .*this worker leaks descriptors and is to be replaced; it holds .*")
    assert len(censuses) >= requests // (4 * LIMIT)
    for census in censuses:
        named = re.search(rf"it holds (\d+) file {re.escape(str(leaked))}; ", census)
        assert named, census  # the first of the list: the most frequent
        assert int(named[1]) > 8
    assert told(server, "killed by|Traceback|EMFILE|crash loop|code [^0]") == []
    assert max(tally.bodies.values()) < LIMIT  # the life of a worker
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        pytest.param("file/etc/hostname", r"\d\d file /etc/hostname", id="file"),
        pytest.param("connection", r"\d\d socket AF_INET from 127\.0\.0\.1", id="accepted"),
        pytest.param("client/UPSTREAM", r"\d\d socket AF_INET to UPSTREAM", id="connected"),
        pytest.param("pipe", r"\d\d pipe", id="pipe"),
        pytest.param("epoll", r"\d\d eventpoll", id="epoll"),
        pytest.param("files/3", r"\d\d file /dev/null", id="three-a-request"),
    ],
)
def test_the_census_names_what_leaks(prefork_server: ServerFactory, upstream: str, kind: str, named: str) -> None:
    server = leaky(prefork_server)
    before = server.workers()
    payload = get("/" + kind.replace("UPSTREAM", upstream))
    with Load(server.address, clients=1, payload=payload, timeout=60) as load:
        said = server.wait_for_log("this worker leaks descriptors and is to be replaced; it holds (.*)")
        replaced(server, before)
    assert load.tally.lost == 0, load.tally
    assert re.match(named.replace("UPSTREAM", re.escape(upstream)) + r"(;|$)", said[1]), said[1]
    assert len(said[1].split("; ")) <= 10
    assert "listening" in said[1]


def test_a_leak_of_all_at_once_is_found_when_a_handler_meets_the_limit(prefork_server: ServerFactory) -> None:
    server = leaky(prefork_server)
    before = server.workers()
    ask(server, "/files/46")
    with connect(server.address) as client:
        client.sendall(get("/files/46"))
        assert client.recv(1) == b""  # at once, while the worker waits for its replacement
    server.wait_for_log(r"this worker leaks descriptors .*; it holds [45]\d file /dev/null;")
    with Load(server.address, clients=2) as load:
        replaced(server, before)
    assert load.tally.lost == 0, load.tally


def test_a_leak_is_told_once_a_worker(prefork_server: ServerFactory) -> None:
    server = leaky(prefork_server)
    with Load(server.address, clients=2, count=200, payload=get("/pipe"), timeout=60) as load:
        assert load.wait().lost == 0, load.tally
    pids = re.findall(r"ERROR (\d+)\S* worker 0: this worker leaks", server.log())
    assert len(pids) == len(set(pids)) >= 3


@pytest.mark.parametrize("threads", [1, 4])
def test_connections_that_are_kept_hide_no_leak(prefork_server: ServerFactory, threads: int) -> None:
    server = leaky(prefork_server, "application", subcommand="wsgi", threads=threads)
    before = server.workers()
    with contextlib.ExitStack() as stack:
        kept = [stack.enter_context(connect(server.address)) for _ in range(5)]
        for client in kept:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
        with Load(server.address, clients=1, payload=get("/leak"), timeout=60) as load:
            server.wait_for_log(r"this worker leaks descriptors .*; it holds \d\d file /dev/null;")
            replaced(server, before)
        assert load.tally.lost == 0, load.tally
        for client in kept:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 200 ")


# What is no leak.


def test_much_that_is_opened_at_the_start_is_no_leak(prefork_server: ServerFactory) -> None:
    server = leaky(prefork_server, "Provident")
    with Load(server.address, clients=2, count=200) as load:
        assert load.wait().lost == 0, load.tally
    assert told(server, "leaks") == []
    assert len(load.tally.bodies) == 1
    with Load(server.address, clients=1, payload=get("/file/etc/hostname"), timeout=60) as load:
        server.wait_for_log(r"it holds 3\d file /dev/null; \d+ file /etc/hostname;")
    assert load.tally.lost == 0, load.tally


def test_a_descriptor_with_a_high_number_is_no_leak(prefork_server: ServerFactory) -> None:
    server = leaky(prefork_server)
    before = server.workers()
    for number in (LIMIT - 24, LIMIT - 1, LIMIT - 25):
        ask(server, f"/number/{number}")
        with Load(server.address, clients=2, count=100) as load:
            assert load.wait().lost == 0, load.tally
    assert told(server, "leaks") == []
    assert server.workers() == before
    with Load(server.address, clients=1, payload=get("/pipe"), timeout=60) as load:
        server.wait_for_log("this worker leaks")  # all the same
        replaced(server, before)
    assert load.tally.lost == 0, load.tally


def test_many_connections_in_hand_are_no_leak(prefork_server: ServerFactory) -> None:
    server = leaky(prefork_server, "Threaded")
    before = server.workers()
    clients = [connect(server.address, timeout=30) for _ in range(LIMIT)]
    for client in clients:
        client.sendall(b"x")
    with board_of(server) as board:
        server.wait_for(lambda: board.exhaustion.errno, message="the limit to be met")
    for client in clients:
        with client:
            assert line(client) == "held"  # those who waited are served as others leave
            client.sendall(b"x")
            assert client.recv(1000).startswith(b"HTTP/1.1 200")
    assert told(server, "leaks") == []
    assert server.workers() == before


def test_a_loop_of_ones_own_that_leaks_is_found_too(prefork_server: ServerFactory) -> None:
    server = leaky(prefork_server, "Alone")
    before = server.workers()
    with Load(server.address, clients=2, payload=get("/file/etc/hostname"), timeout=60) as load:
        server.wait_for_log("this worker leaks descriptors .*; it holds .* file /etc/hostname")
        replaced(server, before)
    assert load.tally.lost == 0, load.tally


# By order.


@pytest.mark.parametrize(("limit", "most"), [("0.5", LIMIT // 2), ("20", 20)])
def test_max_fds_replaces_a_worker_before_it_meets_its_limit(
    prefork_server: ServerFactory, limit: str, most: int
) -> None:
    server = leaky(prefork_server, max_fds=limit)
    before = server.workers()
    with Load(server.address, clients=2) as load:
        load.wait_for(lambda tally: tally.answered > 200)
        assert server.workers() == before
        ask(server, f"/files/{most - 8}")  # with what it has anyway a little more than most
        said = server.wait_for_log(r"max_fds: it holds (\d+) descriptors")
        replaced(server, before)
    assert int(said[1]) > most
    assert load.tally.lost == 0, load.tally
    assert told(server, "leaks|EMFILE") == []
    assert server.stop() == 0
