"""Embedded servers that speak TLS themselves."""

from __future__ import annotations

import importlib.util
import signal
import ssl

import pytest

from prefork.testing import NotServingError, Server, connect
from prefork.testing.plugin import ServerFactory
from tests.support.embed.servers import APPS, EXAMPLES, ROOT

CERTS = ROOT / "tests" / "support" / "wsgi" / "certs"
ASK = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def secured(prefork_server: ServerFactory, name: str, workers: int) -> tuple[Server, ssl.SSLContext]:
    """A server of ``apps/secured.py``, and what its clients trust; skips where what it needs is not installed."""
    if importlib.util.find_spec(name.rpartition("_")[2]) is None:
        pytest.skip(f"{name} is not installed")
    return serve(prefork_server, name, workers), ssl.create_default_context(cafile=str(CERTS / "ca.pem"))


def serve(prefork_server: ServerFactory, name: str, workers: int) -> Server:
    """Serve a name of ``apps/secured.py``."""
    environment = {
        "PYTHONPATH": str(EXAMPLES),
        "EMBED_CERTIFICATE": str(CERTS / "server.pem"),
        "EMBED_KEY": str(CERTS / "server.key"),
    }
    return prefork_server(f"secured:{name}", app_dir=APPS, options={"env": environment}, workers=workers)


@pytest.mark.parametrize(
    "name", ["uvicorn", "uvloop", "hypercorn", "aiohttp", "tornado", "asyncio", "gevent", "cheroot", "socketserver"]
)
def test_requests_over_tls_and_a_client_that_speaks_none(prefork_server: ServerFactory, name: str) -> None:
    server, client = secured(prefork_server, name, 2)
    with connect(server.address) as plain:
        plain.sendall(ASK)
        bodies: set[bytes] = set()

        def ask() -> int:
            with client.wrap_socket(connect(server.address), server_hostname="localhost") as secured:
                secured.sendall(ASK)
                data = b""
                while b"\r\n\r\n" not in data or not data.split(b"\r\n\r\n", 1)[1]:
                    piece = secured.recv(65536)
                    assert piece, data
                    data += piece
            assert data.startswith(b"HTTP/1.1 200"), data
            bodies.add(data.split(b"\r\n\r\n", 1)[1])
            return len(bodies)

        server.wait_for(lambda: ask() == 2, message="both workers to answer")
    assert server.stop() == 0


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_an_answer_over_tls_is_not_cut_short_by_a_stop(prefork_server: ServerFactory, loop: str) -> None:
    server, client = secured(prefork_server, f"slowly_{loop}", 1)
    with client.wrap_socket(connect(server.address), server_hostname="localhost") as asking:
        asking.sendall(b"\n")
        data = asking.recv(100)
        server.signal(signal.SIGTERM)
        while piece := asking.recv(100):
            data += piece
    assert len(data) == 200
    assert server.wait() == 0


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_conversation_over_tls_ends_when_it_is_idle(prefork_server: ServerFactory, loop: str) -> None:
    server, client = secured(prefork_server, f"again_{loop}", 1)
    with client.wrap_socket(connect(server.address), server_hostname="localhost") as asking:
        asking.sendall(b"hello\n")
        assert asking.recv(100) == b"hello\n"
        server.signal(signal.SIGTERM)
        assert asking.recv(100) == b""
    assert server.wait() == 0
    assert "Traceback" not in server.log()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_the_time_for_a_handshake_is_the_servers_option(prefork_server: ServerFactory, loop: str) -> None:
    server, _ = secured(prefork_server, f"impatient_{loop}", 1)
    with connect(server.address) as silent:
        assert silent.recv(100) == b""


@pytest.mark.parametrize("name", ["listening", "bound"])
def test_a_listener_that_secures_itself_is_not_served_in_plain_text(prefork_server: ServerFactory, name: str) -> None:
    with pytest.raises(NotServingError, match=r"listens on its own SSLSocket.*get_request") as caught:
        serve(prefork_server, name, 1)
    assert "Traceback" not in str(caught.value)
