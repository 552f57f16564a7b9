"""``prefork exporter``: the metrics of a running server over HTTP, served by prefork itself.

A scrape is one connection of one worker; another worker is there for the case that a client is slow.
"""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Sequence
from typing import Any, Final

from prefork import server
from prefork.cli.commands import Parser
from prefork.config import address
from prefork.errors import PreforkError
from prefork.services import log as logs

_LONGEST: Final = 16 * 1024
"""Bytes of a request's head."""

_PATIENCE: Final = 5.0
"""Seconds that a client may be silent."""

_TIME: Final = 30.0
"""Seconds that one scrape may take altogether."""


def exporter(argv: Sequence[str]) -> int:
    """``prefork exporter``."""
    parser = Parser(
        "exporter",
        "Serve the metrics of a running server for Prometheus, at /metrics. prefork_up tells whether that server\n"
        "answers; it may come and go. Needs prefork[prometheus].",
    )
    parser.add_argument(
        "--listen", metavar="ADDRESS", default="127.0.0.1:9199", help="where to serve (default: %(default)s)"
    )
    arguments = parser.read(argv)
    if arguments is None:
        return 0
    try:
        address.parse(arguments.listen)
    except ValueError as error:
        parser.error(f"--listen: {error}")
    if importlib.util.find_spec("prometheus_client") is None:
        raise PreforkError("prefork exporter needs prometheus_client; pip install 'prefork[prometheus]'")
    logs.configure("info")
    serve = handler(arguments.control)
    return server.serve(serve, bind=arguments.listen, workers=2, io_timeout=_PATIENCE, timeout=_TIME)


def handler(control: str = "") -> Any:
    """What answers a scrape: ``handle(connection, address)``.

    Args:
        control: the control socket; by default that of the only server that runs here.
    """
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import choose_encoder

    from prefork.cli.metrics import Collector

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector(control))

    def handle(connection: socket.socket, peer: object) -> None:  # noqa: ARG001  # a handler is given both
        try:
            head = _head(connection)
        except TimeoutError:
            return
        line, _, fields = head.partition(b"\r\n")
        words = line.split()
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            connection.sendall(_answer("400 Bad Request", b""))
        elif words[0] not in {b"GET", b"HEAD"}:
            connection.sendall(_answer("405 Method Not Allowed", b"", "Allow: GET, HEAD"))
        elif words[1].partition(b"?")[0] not in {b"/", b"/metrics"}:
            connection.sendall(_answer("404 Not Found", b"the metrics are at /metrics\n"))
        else:
            encode, kind = choose_encoder(_accepted(fields))
            body = encode(registry)
            connection.sendall(_answer("200 OK", body, f"Content-Type: {kind}", head_only=words[0] == b"HEAD"))

    return handle


def _head(connection: socket.socket) -> bytes:
    """The request up to the empty line, or as much of it as there is."""
    data = b""
    while b"\r\n\r\n" not in data and len(data) < _LONGEST:
        more = connection.recv(4096)
        if not more:
            break
        data += more
    return data.partition(b"\r\n\r\n")[0]


def _accepted(fields: bytes) -> str:
    """The value of the field Accept."""
    for line in fields.decode("latin-1").split("\r\n"):
        name, _, value = line.partition(":")
        if name.lower() == "accept":
            return value.strip()
    return ""


def _answer(status: str, body: bytes, *fields: str, head_only: bool = False) -> bytes:
    lines = [f"HTTP/1.1 {status}", *fields, f"Content-Length: {len(body)}", "Connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1") + (b"" if head_only else body)
