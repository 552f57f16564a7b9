"""Servers behind a proxy that speaks the PROXY protocol: they say what they know of their peer."""

from __future__ import annotations

import json
import socket
from typing import Any

import prefork


class Reporter(prefork.Worker):
    """Answers the first line of a connection with who has sent it."""

    def handle(self, connection: socket.socket, address: Any) -> None:
        with connection.makefile("rb") as stream:
            line = stream.readline()
        header = self.proxy_of(connection)
        assert header is not None
        told = {
            "line": line.decode("latin-1"),
            "address": repr(address),
            "pid": self.pid,
            "version": header.version,
            "destination": repr(header.destination),
            "authority": header.authority,
        }
        connection.sendall(json.dumps(told).encode())


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """WSGI: the peer, and what is said beside it."""
    proxy = environ["prefork.proxy"]
    told = {
        "peer": [environ["REMOTE_ADDR"], environ.get("REMOTE_PORT")],
        "scheme": environ["wsgi.url_scheme"],
        "authority": proxy.authority,
        "endpoint": proxy.aws_vpce_id,
        "forwarded": environ.get("HTTP_X_FORWARDED_FOR"),
        "path": environ["PATH_INFO"],
    }
    body = json.dumps(told).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
