"""Servers of the standard library's kinds that the examples don't show."""

from __future__ import annotations

import socketserver
from http.server import HTTPServer
from typing import Any

from application import Handler  # type: ignore[import-not-found]  # on PYTHONPATH when this is served

from prefork import embed


class ForkingHTTPServer(socketserver.ForkingMixIn, HTTPServer):
    """A process for each connection."""


class Choosy(socketserver.TCPServer):
    """Wants nobody, and leaves it at that."""

    def get_request(self) -> tuple[Any, Any]:
        """Accept one, and fail."""
        super().get_request()
        raise PermissionError("not you")


class FailingHandler(socketserver.BaseRequestHandler):
    """Reads, and fails."""

    def handle(self) -> None:
        self.request.recv(65536)
        raise ValueError("this one fails")


async def talk(reader: Any, writer: Any) -> None:
    """Read, and fail."""
    await reader.readline()
    raise ValueError("this one fails")


Forking = embed.socketserver(ForkingHTTPServer, Handler)
Failing = embed.socketserver(socketserver.ThreadingTCPServer, FailingHandler)
Choosing = embed.socketserver(Choosy, FailingHandler)
Talking = embed.asyncio(talk)
