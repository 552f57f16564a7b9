"""Embedded servers that speak TLS themselves."""

from __future__ import annotations

import importlib.util
import ssl

import pytest

from prefork.testing import connect
from prefork.testing.plugin import ServerFactory
from tests.embed.servers import APPS, EXAMPLES, ROOT

CERTS = ROOT / "tests" / "wsgi" / "certs"
ASK = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    "name", ["uvicorn", "uvloop", "hypercorn", "aiohttp", "tornado", "asyncio", "gevent", "cheroot"]
)
def test_requests_over_tls_and_a_client_that_speaks_none(prefork_server: ServerFactory, name: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    environment = {
        "PYTHONPATH": str(EXAMPLES),
        "EMBED_CERTIFICATE": str(CERTS / "server.pem"),
        "EMBED_KEY": str(CERTS / "server.key"),
    }
    server = prefork_server(f"secured:{name}", app_dir=APPS, options={"env": environment}, workers=2)
    client = ssl.create_default_context(cafile=str(CERTS / "ca.pem"))
    with connect(server.address) as plain:
        plain.sendall(ASK)
        bodies: set[bytes] = set()

        def ask() -> int:
            with client.wrap_socket(connect(server.address), server_hostname="localhost") as secured:
                secured.sendall(ASK)
                data = b""
                while b"\r\n\r\n" not in data or not data.split(b"\r\n\r\n", 1)[1]:
                    data += secured.recv(65536)
            assert data.startswith(b"HTTP/1.1 200"), data
            bodies.add(data.split(b"\r\n\r\n", 1)[1])
            return len(bodies)

        server.wait_for(lambda: ask() == 2, message="both workers to answer")
    assert server.stop() == 0
