"""For how long a request had waited for a worker: in the environ, the access log, the status."""

from __future__ import annotations

import json
import re
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from prefork.services.control import Client
from prefork.testing import Server, connect, running_target, wait_for
from tests.support.probing import APPS, PATIENCE, line
from tests.support.tls_clients import KEYS, client_context, secured

TICK = 0.02
"""Seconds by which the kernel's clock and ours may differ: 4 ms where it ticks 250 times a second, 10 at 100."""


class Queued(NamedTuple):
    """A server of one worker, with what it listens on."""

    server: Server
    control: str
    log: Path


@pytest.fixture(scope="module")
def queued(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Queued]:
    folder = tmp_path_factory.mktemp("queued")
    with running_target(
        "queued:application",
        app_dir=APPS,
        subcommand="wsgi",
        workers=1,
        bind=["127.0.0.1:0", f"unix:{folder}/unix"],
        control=folder / "control",
        access_log=folder / "access",
        access_log_format="%(U)s %(Q)s",
    ) as server:
        yield Queued(server, str(folder / "control"), folder / "access")


@contextmanager
def busy(server: Server, seconds: float) -> Iterator[Any]:
    """The worker is busy for so long; gives a function that waits for the end and tells when that was."""
    with connect(server.address, timeout=PATIENCE) as client:
        client.sendall(f"GET /begin/{seconds} HTTP/1.0\r\n\r\n".encode())
        while line(client) != "begun":
            pass
        yield lambda: float(line(client))


def ask(client: socket.socket, *, closes: bool = False) -> None:
    client.sendall(b"GET /waited HTTP/1.1\r\nHost: a\r\n%b\r\n" % (b"Connection: close\r\n" if closes else b""))


def answer(client: socket.socket) -> Any:
    """What was in the environ."""
    length = 0
    while head := line(client):
        if found := re.match(r"Content-Length: (\d+)", head):
            length = int(found[1])
    body = b""
    while len(body) < length:
        body += client.recv(length - len(body))
    return json.loads(body)


@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.25])
@pytest.mark.parametrize("kept", [False, True], ids=["new", "kept"])
def test_it_is_what_the_request_has_waited(queued: Queued, seconds: float, kept: bool) -> None:
    with connect(queued.server.address, timeout=PATIENCE) as client:
        if kept:
            ask(client)
            answer(client)
        with busy(queued.server, seconds) as end:
            begun = time.monotonic()
            ask(client)
            sent = time.monotonic()
            ended = end()
        waited = answer(client)
        answered = time.monotonic()
    assert ended - sent - TICK <= waited <= answered - begun + TICK


def test_who_waits_for_nobody(queued: Queued) -> None:
    with connect(queued.server.address, timeout=PATIENCE) as client:
        for _ in range(20):
            sent = time.monotonic()
            ask(client)
            waited = answer(client)
            assert waited <= time.monotonic() - sent + TICK


def test_what_comes_late_has_not_waited(queued: Queued) -> None:
    """The worker is with the client all the time; it is the client who takes it."""
    with connect(queued.server.address, timeout=PATIENCE) as client:
        client.sendall(b"GET /waited HTTP/1.1\r\n")
        time.sleep(0.2)  # a client that is slow
        sent = time.monotonic()
        client.sendall(b"Host: a\r\n\r\n")
        waited = answer(client)
        assert waited <= time.monotonic() - sent + TICK


def test_the_kernel_does_not_tell_of_unix_sockets(queued: Queued) -> None:
    with connect(queued.server.addresses[1], timeout=PATIENCE) as client:
        with busy(queued.server, 0.1):  # who comes before his request is seen as it comes
            ask(client)
        assert answer(client) == "unknown"


def test_under_tls_what_the_handshake_has_waited_counts() -> None:
    context = client_context()
    with (
        running_target(
            "queued:application",
            app_dir=APPS,
            subcommand="wsgi",
            workers=1,
            control="off",
            **KEYS,
        ) as server,
        secured(server) as first,
    ):
        first.sendall(b"GET /begin/0.3 HTTP/1.0\r\n\r\n")
        while line(first) != "begun":
            pass
        with context.wrap_socket(
            connect(server.address), server_hostname="localhost", do_handshake_on_connect=False
        ) as client:
            begun = time.monotonic()
            client.setblocking(False)
            with pytest.raises(ssl.SSLWantReadError):
                client.do_handshake()  # its first half, which waits
            sent = time.monotonic()
            client.settimeout(PATIENCE)
            client.do_handshake()
            ask(client)
            waited = answer(client)
            answered = time.monotonic()
        assert float(line(first)) - sent - TICK <= waited <= answered - begun + TICK


def test_it_is_told_of_everywhere(queued: Queued) -> None:
    with Client(queued.control) as control:
        before = control.status(processes=False).totals
        with connect(queued.server.address, timeout=PATIENCE) as client:
            with busy(queued.server, 0.1) as end:
                ask(client, closes=True)
                sent = time.monotonic()
                least = end() - sent - TICK
            waited = answer(client)
            client.recv(1)
        after = control.status(processes=False).totals
    assert waited >= least
    grown = [now - then for now, then in zip(after.waited, before.waited, strict=True)]
    bounds = (0.0, *after.waited_bounds, float("inf"))
    assert grown[next(n for n in range(len(grown)) if bounds[n] <= waited < bounds[n + 1])] >= 1
    assert after.waiting - before.waiting >= waited - 0.001
    wait_for(lambda: f"/waited {waited:.3f}" in queued.log.read_text().splitlines(), message="the access log")
