"""Embedded servers behind the PROXY protocol: they know the true peer, and never see the header."""

from __future__ import annotations

import importlib.util
import signal
import socket

import pytest

from prefork.testing import NotServingError, Server, connect
from prefork.testing.exchange import parse_http
from prefork.testing.plugin import ServerFactory
from tests.support.embed.servers import APPS, EXAMPLES
from tests.support.proxy_headers import inet, unix, v1, v2

ASK = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
NAMES = (
    *("wsgiref", "werkzeug", "threads", "waitress", "cheroot", "gevent", "uvicorn", "uvicorn_asyncio", "hypercorn"),
    *("aiohttp", "tornado", "asyncio", "asyncio_uvloop"),
)
NEEDED = {"threads": "socketserver", "asyncio_uvloop": "uvloop", "uvicorn_asyncio": "uvicorn"}
HOST_ALONE = ("aiohttp", "tornado")


def serve(prefork_server: ServerFactory, name: str, **settings: object) -> Server:
    """Serve a name of ``apps/peers.py``; skips where what it needs is not installed."""
    if importlib.util.find_spec(NEEDED.get(name, name)) is None:
        pytest.skip(f"{name} is not installed")
    given: dict[str, object] = {"workers": 1, "proxy_protocol": "any"} | settings
    environment = {"PYTHONPATH": str(EXAMPLES)}
    return prefork_server(f"peers:{name}", app_dir=APPS, subcommand="serve", options={"env": environment}, **given)


def told(address: str, *pieces: bytes) -> str:
    """What the application says of a connection on which this is sent; "" when it was closed without an answer."""
    with connect(address) as client:
        return said(client, *pieces)


def said(client: socket.socket, *pieces: bytes) -> str:
    """The same of a connection."""
    data = b""
    try:
        for piece in pieces:
            client.sendall(piece)
        while piece := client.recv(65536):
            data += piece
    except ConnectionError:
        pass  # closed with something unread
    reply = parse_http(data)
    assert reply is not None or not data, data
    return "" if reply is None else reply.body.decode()


def look(server: Server, name: str) -> None:
    """All that holds of every server."""
    port = "" if name in HOST_ALONE else " 56324"
    assert told(server.address, v1("203.0.113.9"), ASK) == f"203.0.113.9{port}"
    assert told(server.address, v2(inet("203.0.113.10")) + ASK) == f"203.0.113.10{port}"
    with connect(server.address) as slow:  # nobody waits for the end of a header that is slow
        slow.sendall(v1()[:20])
        assert told(server.address, v1("2001:db8::7", family="TCP6", to="::1") + ASK) == f"2001:db8::7{port}"
        assert said(slow, v1()[20:] + ASK) == f"192.0.2.1{port}"
    assert told(server.address, v2(unix(), family=0x31) + ASK).startswith("unix")
    assert told(server.address, v2(command=0x20, family=0) + ASK).startswith("127.0.0.1")
    for wrong in (ASK, v2(inet(), command=0x2F) + ASK, v1("256.0.0.1") + ASK):
        assert told(server.address, wrong) == ""
    server.wait_for_log("no PROXY header from 127.0.0.1:[0-9]+ but")
    assert "Traceback" not in server.log()


def test_the_true_peer(prefork_server: ServerFactory) -> None:
    server = serve(prefork_server, "asyncio")
    look(server, "asyncio")
    assert server.stop() == 0


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_the_true_peer_of_each_server(prefork_server: ServerFactory, name: str) -> None:
    server = serve(prefork_server, name)
    if name in {"wsgiref", "werkzeug", "threads"}:  # one accepts after another
        assert told(server.address, v1("203.0.113.9"), ASK).startswith("203.0.113.9")
        assert told(server.address, ASK) == ""
    else:
        look(server, name)
    assert server.stop() == 0


@pytest.mark.long
def test_a_header_that_is_half_there_is_no_reason_not_to_stop(prefork_server: ServerFactory) -> None:
    server = serve(prefork_server, "asyncio")
    with connect(server.address) as half, connect(server.address) as late:
        half.sendall(v1()[:20])
        late.sendall(v1()[:20])
        server.wait_for(lambda: told(server.address, v1() + ASK) != "", message="others to be served")
        server.signal(signal.SIGTERM)
        assert said(late, v1()[20:] + ASK) == "192.0.2.1 56324"
        assert server.wait() == 0


@pytest.mark.long
def test_a_header_that_does_not_come(prefork_server: ServerFactory) -> None:
    server = serve(prefork_server, "asyncio", io_timeout=2)
    with connect(server.address) as silent, connect(server.address) as half:
        half.sendall(v1()[:20])
        assert silent.recv(1) == half.recv(1) == b""
    server.wait_for_log("but nothing for too long: its connection was closed")
    assert told(server.address, v1() + ASK) == "192.0.2.1 56324"


def test_what_accepts_in_c_refuses(prefork_server: ServerFactory) -> None:
    if importlib.util.find_spec("bjoern") is None:
        pytest.skip("bjoern is not installed")
    with pytest.raises(NotServingError, match=r"proxy_protocol: 'any' can't be had with bjoern.*leave it out"):
        serve(prefork_server, "bjoern")
