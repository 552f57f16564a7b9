"""``prefork asgi``, and ``--worker-class`` of the others: no module of one's own."""

from __future__ import annotations

import contextlib
import http.client
import re
import signal
import socket
import ssl
import sys
from pathlib import Path
from typing import Any

import pytest

from prefork.testing import Server, connect
from prefork.testing.plugin import ServerFactory
from tests.support.embed.servers import APPS, ROOT
from tests.support.forked import SERVERS

CERTS = ROOT / "tests" / "support" / "wsgi" / "certs"


def ask(server: Server, path: str = "/") -> str:
    """What a client behind a proxy is answered."""
    host, _, port = server.address.rpartition(":")
    with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=30)) as connection:
        connection.request("GET", path, headers={"X-Forwarded-For": "9.9.9.9"})
        return connection.getresponse().read().decode()


@pytest.fixture
def asgi(prefork_server: ServerFactory, tmp_path: Path) -> Server:
    return prefork_server(
        *("commanded:asgi",),
        app_dir=APPS,
        subcommand="asgi",
        workers=1,
        access_log=str(tmp_path / "access.log"),
        health_path="/healthz",
        agent_bind="127.0.0.1:0",
    )


def said(connection: socket.socket, text: str) -> str:
    """Send a short text in a masked frame and read the answer's (RFC 6455, 5.2)."""
    data = text.encode()
    connection.sendall(bytes([0x81, 0x80 | len(data), 0, 0, 0, 0]) + data)
    return frame(connection)[1].decode()


def frame(connection: socket.socket) -> tuple[int, bytes]:
    """The next frame's opcode and payload; a short one."""
    head = connection.recv(2, socket.MSG_WAITALL)
    return head[0] & 15, connection.recv(head[1], socket.MSG_WAITALL)


def websocket(server: Server) -> socket.socket:
    host, _, port = server.address.rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    connection.sendall(
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(1)
    assert head.startswith(b"HTTP/1.1 101 ")
    return connection


def test_asgi_through_a_reload_and_a_stop(asgi: Server, tmp_path: Path) -> None:
    (before,) = asgi.workers()
    assert ask(asgi) == f"9.9.9.9 {before}"
    assert ask(asgi, "/healthz?x=1") == "ready\n"
    with connect(asgi.wait_for_log(r"agent_bind: (\S+)")[1]) as balancer:
        assert re.fullmatch(r"up ready \d+%\n", balancer.makefile().readline())  # a loop takes as many as come
    assert (tmp_path / "access.log").read_text().count("9.9.9.9 - - [") == 1
    with websocket(asgi) as connection:
        assert said(connection, "hello") == f"hello {before}"
        asgi.signal(signal.SIGHUP)
        assert frame(connection) == (8, (1012).to_bytes(2, "big"))
    asgi.wait_for_log(f"lifespan ends in {before}")
    asgi.wait_for_log("websocket ends with 1012")
    with websocket(asgi) as connection:
        again, _, after = said(connection, "again").partition(" ")
        assert (again, after == str(before)) == ("again", False)
        asgi.signal(signal.SIGTERM)
        assert frame(connection) == (8, (1012).to_bytes(2, "big"))
    assert asgi.wait() == 0
    assert f"lifespan ends in {after}" in asgi.log()
    assert "Uvicorn" not in asgi.log()


@pytest.mark.parametrize("loop", ["asyncio", pytest.param("uvloop", marks=pytest.mark.long)])
def test_asgi_speaks_tls_and_tells_whoever_does_not(prefork_server: ServerFactory, loop: str) -> None:
    server = prefork_server(
        "commanded:asgi",
        app_dir=APPS,
        subcommand="asgi",
        workers=1,
        certfile=CERTS / "server.pem",
        keyfile=CERTS / "server.key",
        loop=loop,
    )
    host, _, port = server.address.rpartition(":")
    for method in ("GET", "DELETE"):
        plain = http.client.HTTPConnection(host, int(port), timeout=30)
        with contextlib.closing(plain):
            plain.request(method, "/", headers={"X-Long": "a" * 5000})
            answer = plain.getresponse()
            assert (answer.status, answer.headers["Connection"]) == (400, "close")
            assert answer.read() == b"400 Bad Request: this port speaks TLS, and the request came without; use https\n"
    server.wait_for_log("no TLS with a client: it speaks plain HTTP, and was answered 400")
    context = ssl.create_default_context(cafile=CERTS / "ca.pem")
    context.check_hostname = False
    with contextlib.closing(http.client.HTTPSConnection(host, int(port), timeout=30, context=context)) as connection:
        connection.request("GET", "/")
        assert connection.getresponse().read().startswith(b"127.0.0.1 ")
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("command", "target", "name", "answer"),
    [
        pytest.param("asgi", "asgi", "hypercorn", "9.9.9.9 ", marks=pytest.mark.long),
        ("wsgi", "wsgi", "gevent", "9.9.9.9 "),
        pytest.param("wsgi", "wsgi", "waitress", "9.9.9.9 ", marks=pytest.mark.long),
        ("serve", "of_tornado()", "tornado", "tornado "),
        ("serve", "wsgi", "tornado", "127.0.0.1 "),
        pytest.param("serve", "of_aiohttp()", "aiohttp", "aiohttp ", marks=pytest.mark.long),
        pytest.param("serve", "of_asyncio", "asyncio", "asyncio", marks=pytest.mark.long),
    ],
)
def test_each_server_by_its_name(
    prefork_server: ServerFactory, command: str, target: str, name: str, answer: str
) -> None:
    health: dict[str, Any] = {} if command == "serve" else {"health_path": "/healthz"}
    server = prefork_server(
        f"commanded:{target}", app_dir=APPS, subcommand=command, workers=1, worker_class=name, **health
    )
    assert ask(server).startswith(answer)
    assert not health or ask(server, "/healthz") == "ready\n"
    assert server.stop() == 0


def refused(*arguments: str) -> list[str]:
    done = SERVERS.run([sys.executable, "-m", "prefork", *arguments, "--app-dir", str(APPS)])
    assert done.returncode == 2, done.stderr
    return [line.removeprefix("prefork: error: ") for line in done.stderr.splitlines()]


def test_what_another_server_knows_nothing_of_is_refused() -> None:
    told = refused(*("wsgi", "commanded:wsgi", "-k", "gevent", "--limit-request-line", "999", "--preload", "--check"))
    assert told[0].startswith("limit_request_line: gevent reads requests by itself, with limits of its own")
    assert told[1:] == ["preload: gevent patches what an application imports, in each worker; leave it out"]
    (line,) = refused("asgi", "commanded:asgi", "--limit-request-line", "999")
    assert line.startswith(
        "'--limit-request-line' is not a flag; it is gunicorn's, and here a setting of prefork wsgi al"
    )
    (line,) = refused("asgi", "commanded:asgi", "--bind", "127.0.0.1:0", "--worker-options", "host=there")
    assert line == "worker_options: uvicorn: host is no option here: prefork listens; give the setting bind"
    (line,) = refused("asgi", "commanded:asgi", "--bind", "127.0.0.1:0", "--worker-options", "log_level=loud")
    assert line == "worker_options: uvicorn can't be made with log_level='loud': KeyError: 'loud'; correct it"


def test_the_start_says_which_command_is_meant(prefork_server: ServerFactory) -> None:
    told = refused("asgi", "commanded:wsgi", "--bind", "127.0.0.1:0", "--workers", "1")
    assert "commanded:wsgi is a WSGI application; prefork wsgi commanded:wsgi serves it" in told
    told = refused("wsgi", "commanded:asgi", "--bind", "127.0.0.1:0", "--workers", "1")
    assert "commanded:asgi is an ASGI application; prefork asgi commanded:asgi serves it" in told
