"""Settings that say where and how connections come, together: any two of their values meet in one of the servers here.

Each by itself is tested where it belongs. What is wrong with two of them at once is seen by nobody who reads one.
"""

from __future__ import annotations

import itertools
import json
import random
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from prefork.testing import Server, connect
from prefork.testing.server import running
from tests.support.proxy_headers import inet, v1, v2
from tests.support.tls_clients import KEYS, client_context
from tests.support.wsgi.harness import ROOT, WITHIN

FACTORS: Final[dict[str, tuple[Any, ...]]] = {
    "bind": ("127.0.0.1:0", "0.0.0.0:0", "[::]:0", "unix:SOCKET", "two"),
    "proxy": ("off", "v1", "v2", "any"),
    "tls": (False, True),
    "threads": (1, 3),
    "keepalive": (0, 30),
    "workers": (1, 2),
    "preload": (False, True),
    "reuse_port": (False, True),
    "defer_accept": (0, 5),
    "max_requests": (0, 5),
}


class Row(NamedTuple):
    """One server's settings."""

    bind: str
    proxy: str
    tls: bool
    threads: int
    keepalive: int
    workers: int
    preload: bool
    reuse_port: bool
    defer_accept: int
    max_requests: int

    def possible(self) -> bool:
        """Whether there is such a server, and its clients' connections are kept if any are.

        A connection under TLS is one process's, and ends when that is recycled.
        """
        recycled = self.tls and self.keepalive and self.max_requests
        return not (recycled or (self.reuse_port and self.bind == "unix:SOCKET"))

    def __str__(self) -> str:
        return "-".join(f"{name}={value}" if value is not True else name for name, value in self._asdict().items())


def pairs(row: Row) -> set[tuple[tuple[int, Any], ...]]:
    return set(itertools.combinations(enumerate(row), 2))


def rows() -> list[Row]:
    """So many that any two values that can be together are, in one of them; the same each time."""
    chance = random.Random(20)
    every = [row for row in itertools.starmap(Row, itertools.product(*FACTORS.values())) if row.possible()]
    missing = set().union(*map(pairs, every))
    chosen: list[Row] = []
    while missing:
        best = max(chance.sample(every, 300), key=lambda row: len(pairs(row) & missing))
        if found := pairs(best) & missing:
            chosen.append(best)
            missing -= found
    return chosen


ROWS: Final = rows()


@pytest.fixture(params=ROWS, ids=str)
def row(request: pytest.FixtureRequest) -> Row:
    found: Row = request.param
    return found


@pytest.fixture
def server(row: Row, tmp_path: Path) -> Iterator[Server]:
    given: dict[str, Any] = {
        "bind": {"unix:SOCKET": [f"unix:{tmp_path}/s"], "two": ["127.0.0.1:0", f"unix:{tmp_path}/s"]}.get(
            row.bind, [row.bind]
        ),
        "workers": row.workers,
        "threads": row.threads,
        "keepalive": row.keepalive,
        "defer-accept": row.defer_accept,
        "max-requests": row.max_requests,
        "proxy-protocol": row.proxy,
        **({"proxy-allow-ips": "*"} if row.proxy != "off" else {}),
        **(KEYS if row.tls else {}),
        "preload": row.preload,
        "reuse-port": row.reuse_port,
    }
    flags = []
    for name, value in given.items():
        for one in value if isinstance(value, list) else [value]:
            flags += [f"--{name}"] if one is True else [] if one is False else [f"--{name}={one}"]
    command = [sys.executable, "-m", "prefork", "wsgi", "tests.support.wsgi.apps:peer_and_body", *flags]
    with running(command, cwd=ROOT, within=WITHIN) as made:
        yield made


class Client:
    """One connection to a server of such settings."""

    def __init__(self, row: Row, address: str) -> None:
        self._socket: socket.socket = connect(address, timeout=WITHIN)
        self._data = b""
        if row.proxy != "off":
            self._socket.sendall(v2(inet()) if row.proxy == "v2" else v1())
        if row.tls:
            self._socket = client_context().wrap_socket(self._socket, server_hostname="localhost")

    def send(self, *requests: bytes) -> None:
        self._socket.sendall(b"".join(requests))

    def answer(self) -> dict[str, Any]:
        """The body of the next answer, and whether its connection is kept."""
        while b"\r\n\r\n" not in self._data:
            self._more()
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        (length,) = re.findall(rb"(?mi)^content-length: (\d+)\r?$", head)
        while len(self._data) < int(length):
            self._more()
        body, self._data = self._data[: int(length)], self._data[int(length) :]
        return {**json.loads(body), "kept": b"connection: close" not in head.lower()}

    def _more(self) -> None:
        piece = self._socket.recv(1 << 16)
        assert piece, self._data
        self._data += piece

    def ends(self) -> bool:
        return self._socket.recv(1) == b""

    def close(self) -> None:
        self._socket.close()


def get(seconds: float = 0, *, close: bool = False) -> bytes:
    return b"GET /%g HTTP/1.1\r\nHost: a\r\n%s\r\n" % (seconds, b"Connection: close\r\n" * close)


POST: Final = b"POST /0 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"


class Site:
    """A server of such settings, its clients, and what they may expect."""

    def __init__(self, row: Row, server: Server, stack: ExitStack) -> None:
        self._row = row
        self._stack = stack
        (names,) = re.findall(r"serving on (.*) with \d+ worker", server.log())
        self._addresses = itertools.cycle(names.split(", "))
        self._peer = "192.0.2.1" if row.proxy != "off" else "" if row.bind == "unix:SOCKET" else None

    def come(self) -> Client:
        client = Client(self._row, next(self._addresses))
        self._stack.callback(client.close)
        return client

    def right(self, answer: dict[str, Any], body: int = 0) -> bool:
        """See that it is the answer to such a request; whether the connection is kept."""
        assert answer["body"] == body
        assert answer["scheme"] == ("https" if self._row.tls else "http")
        assert self._peer is None or answer["peer"] == self._peer
        kept: bool = answer["kept"]
        return kept

    def close(self) -> None:
        """One connection for each request, by wish of the client or of the server."""
        for _ in range(4):
            client = self.come()
            client.send(get(close=True))
            assert not self.right(client.answer())
            assert client.ends()
        if not self._row.keepalive:
            client = self.come()
            client.send(POST)
            assert not self.right(client.answer(), 5)
            assert client.ends()

    def keep(self) -> list[Client]:
        """Clients that have asked several times, with and without pauses, and for several things together."""
        clients = [self.come() for _ in range(4)]
        for pause in (0.0, 0.02):
            self.ask(clients, get())
            time.sleep(pause)  # so that some are parked between two requests, and some are not
            self.ask(clients, POST, body=5)
        for client in clients:
            client.send(get(0.02), POST, get())
        for client in clients:
            for body in (0, 5, 0):
                assert self.right(client.answer(), body)
        return clients

    def ask(self, clients: list[Client], request: bytes, body: int = 0) -> None:
        """Ask by all at once, who are kept."""
        for client in clients:
            client.send(request)
        for client in clients:
            assert self.right(client.answer(), body)


@pytest.mark.long
def test_it_serves_reloads_and_stops(row: Row, server: Server) -> None:
    with ExitStack() as stack:
        site = Site(row, server, stack)
        site.close()
        clients = site.keep() if row.keepalive else []
        before = set(server.workers())
        server.signal(signal.SIGHUP)
        server.wait_for(lambda: len(now := set(server.workers())) == row.workers and not now & before, WITHIN)
        if not row.tls:  # the keys of a connection are one process's
            site.ask(clients, get())
        client = site.come()
        client.send(get(0.3, close=True))
        server.signal(signal.SIGTERM)
        assert not site.right(client.answer())
    assert server.wait() == 0
    log = server.log()
    assert not re.search(r"Traceback| (ERROR|CRITICAL) ", log), log


def test_any_two_values_are_together_in_a_server() -> None:
    assert 20 <= len(ROWS) <= 40
    seen = set().union(*map(pairs, ROWS))
    for (one, first), (other, second) in itertools.combinations(enumerate(FACTORS.items()), 2):
        for value, beside in itertools.product(first[1], second[1]):
            if (first[0], second[0], value, beside) != ("bind", "reuse_port", "unix:SOCKET", True):
                assert ((one, value), (other, beside)) in seen
