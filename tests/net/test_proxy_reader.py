"""A header is taken off a connection, by whoever reads what follows from the socket, and by whoever is given it."""

from __future__ import annotations

import logging
import random
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from prefork.net.proxy_protocol import ProxyHeader, ProxyProtocolError
from prefork.net.proxy_reader import EagerProxyReader, Proxied, ProxyReader
from tests.support.figures import count
from tests.support.proxy_headers import GOOD, MORE, NO, mutated, verdict

PEER = ("127.0.0.1", 5)
TAIL = b"GET / HTTP/1.1\r\n\r\n" + b"x" * 1000

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture(params=[ProxyReader, EagerProxyReader])
def reader(request: pytest.FixtureRequest) -> ProxyReader:
    kind: type[ProxyReader] = request.param
    return kind("any", "127.0.0.1", logging.getLogger("test"), 5.0)


def behind(reader: ProxyReader, connection: socket.socket) -> bytes:
    """What the handler would read next: what was taken along, and what is still there."""
    data = reader.ahead.pop(connection.fileno(), b"")
    assert not data or isinstance(reader, EagerProxyReader)
    try:
        while piece := connection.recv(65536, socket.MSG_DONTWAIT):
            data += piece
    except BlockingIOError:
        pass
    return data


def interrupt(seconds: float) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("header", GOOD, ids=repr)
def test_no_byte_behind_a_header_is_lost(reader: ProxyReader, pair: Pair, header: bytes) -> None:
    ours, theirs = pair
    source = verdict(header)[1][1]
    for tail in (b"", TAIL):
        theirs.sendall(header + tail)
        assert reader.read(ours, PEER) == (PEER if source is None else source)
        assert reader.headers[ours.fileno()].raw == header
        assert behind(reader, ours) == tail


@pytest.mark.parametrize("header", GOOD, ids=repr)
def test_a_header_may_come_in_pieces(reader: ProxyReader, pair: Pair, header: bytes) -> None:
    ours, theirs = pair
    cuts = sorted(random.Random(len(header)).sample(range(1, len(header)), 4))
    pieces = [header[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)]
    pieces[-1] += TAIL

    def waiting(seconds: float) -> None:
        if seconds:
            theirs.sendall(pieces.pop(0))

    reader.read(ours, PEER, waiting)
    assert reader.headers[ours.fileno()].raw == header
    assert (pieces, behind(reader, ours)) == ([], TAIL)


def test_who_was_interrupted_goes_on_where_he_was(reader: ProxyReader, pair: Pair) -> None:
    ours, theirs = pair
    theirs.sendall(GOOD[0][:9])

    with pytest.raises(KeyboardInterrupt):
        reader.read(ours, PEER, interrupt)
    theirs.sendall(GOOD[0][9:] + TAIL)
    assert reader.read(ours, PEER) == ("192.0.2.1", 56324)
    assert behind(reader, ours) == TAIL


def test_what_was_begun_on_one_connection_is_nothing_to_another(reader: ProxyReader, pair: Pair) -> None:
    ours, theirs = pair
    theirs.sendall(GOOD[0][:9])
    with pytest.raises(KeyboardInterrupt):
        reader.read(ours, PEER, interrupt)
    others, far = socket.socketpair()
    with others, far:
        far.sendall(GOOD[6] + TAIL)
        assert reader.read(others, PEER) == ("192.0.2.1", 56324)
        assert behind(reader, others) == TAIL


def test_what_is_none_is_refused_by_both(reader: ProxyReader) -> None:
    chance = random.Random(1)
    for _ in range(count("mutated-proxy-headers", part=100)):
        data = mutated(chance)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(data)
            wanted = verdict(data)
            found: Any
            try:
                found = reader.attempt(ours)
            except ProxyProtocolError:
                found = NO
            if isinstance(found, ProxyHeader):
                assert wanted == ("yes", (len(found.raw), found.source))
                assert behind(reader, ours) == data[len(found.raw) :]
            elif isinstance(found, bytes):
                assert wanted == MORE
                assert found == data
            else:
                assert wanted == NO or not data


class Counted(socket.socket):
    """A connection that counts what is called on it."""

    calls = 0

    def recv(self, *given: Any) -> bytes:
        self.calls += 1
        return super().recv(*given)

    def settimeout(self, value: float | None) -> None:
        self.calls += 1
        super().settimeout(value)

    def setblocking(self, flag: bool) -> None:
        self.calls += 1
        super().setblocking(flag)


def test_a_header_costs_no_call_of_its_own_where_its_reader_reads_on(reader: ProxyReader, pair: Pair) -> None:
    theirs = pair[1]
    ours = Counted(fileno=pair[0].detach())
    handled: list[float | None] = []
    proxied = Proxied(lambda connection, _: handled.append(connection.gettimeout()), reader, None, 7.0)
    with ours:
        theirs.sendall(GOOD[6] + TAIL)
        proxied(ours, PEER)
        assert ours.calls == (2 if isinstance(reader, EagerProxyReader) else 3)  # the last is the handler's timeout
        assert handled == [7.0]


def test_who_was_interrupted_keeps_his_timeout(reader: ProxyReader, pair: Pair) -> None:
    ours, theirs = pair
    ours.settimeout(7.0)
    theirs.sendall(GOOD[0][:9])
    with pytest.raises(KeyboardInterrupt):
        reader.read(ours, PEER, interrupt)
    assert ours.gettimeout() == 7.0
    theirs.sendall(GOOD[0][9:])
    assert reader.read(ours, PEER) == ("192.0.2.1", 56324)
    assert ours.gettimeout() == 7.0
    theirs.sendall(GOOD[0])
    assert reader.read(ours, PEER) == ("192.0.2.1", 56324)


def test_a_timeout_of_the_connection_is_its_own_again(reader: ProxyReader, pair: Pair) -> None:
    ours, theirs = pair
    ours.settimeout(7.0)
    theirs.sendall(GOOD[6])
    reader.read(ours, PEER)
    assert ours.gettimeout() == 7.0
