"""What tests of TLS share: certificates, and clients that know them."""

from __future__ import annotations

import contextlib
import socket
import ssl
from pathlib import Path
from typing import Any, Final

from prefork.testing import Server, connect

CERTS: Final = Path(__file__).parent / "wsgi" / "certs"
WITHIN: Final = 20.0  # seconds for what takes none
KEYS: Final[dict[str, Any]] = {"certfile": str(CERTS / "server.pem"), "keyfile": str(CERTS / "server.key")}


def client_context(certificate: str = "") -> ssl.SSLContext:
    """A client that trusts the authority of the tests, and has a certificate of its own if one is named."""
    context = ssl.create_default_context(cafile=str(CERTS / "ca.pem"))
    context.set_alpn_protocols(["h2", "http/1.1"])
    if certificate:
        context.load_cert_chain(CERTS / certificate)
    return context


def secured(
    server: Server, context: ssl.SSLContext | None = None, session: ssl.SSLSession | None = None
) -> ssl.SSLSocket:
    """A connection on which a missing close_notify is an error."""
    return (context or client_context()).wrap_socket(
        connect(server.address), server_hostname="localhost", suppress_ragged_eofs=False, session=session
    )


def greeted(address: tuple[str, int]) -> socket.socket:
    """A client that has sent the first word of a handshake."""
    client = socket.create_connection(address, timeout=WITHIN)
    client.sendall(hello())
    return client


def hello() -> bytes:
    """The first word of a handshake."""
    outgoing = ssl.MemoryBIO()
    begun = client_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        begun.do_handshake()
    return outgoing.read()


def received(client: socket.socket) -> bytes:
    """What a client was sent before the end."""
    data = b""
    try:
        while piece := client.recv(1 << 16):
            data += piece
    except ConnectionResetError:
        pass
    return data
