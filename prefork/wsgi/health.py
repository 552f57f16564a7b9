"""The path on which a worker says, below the application, whether the server is fit for new clients."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from prefork.scoreboard.layout import Readiness
from prefork.status.agent import reason_of
from prefork.wsgi.environ import spelled

UNLOGGED: Final = "prefork.unlogged"
"""What a request has in its environ that the access log leaves out: balancers ask every second or two."""


class Told(NamedTuple):
    """What is answered.

    Attributes:
        status: The status line.
        fields: The header fields.
        body: The body, which says it in a word.
    """

    status: str
    fields: list[tuple[str, str]]
    body: bytes


class HealthCheck:
    """WORKER. The application of one path, for GET and HEAD: 200, or 503 with the reason.

    Args:
        path: The path; any query, any form of the target and any escapes mean the same.
        readiness: Whether the server is fit.
    """

    def __init__(self, path: str, readiness: Callable[[], Readiness]) -> None:
        self._spelled = spelled(path)
        self._readiness = readiness

    def asked_by(self, path: str) -> bool:
        """Whether that of a request is this path: as PEP 3333 has PATH_INFO, before any mount is taken off."""
        return path == self._spelled

    def told(self, method: str) -> Told:
        """What is answered to a request of this method."""
        fields = [("Content-Type", "text/plain"), ("Cache-Control", "no-store")]
        if method not in {"GET", "HEAD"}:
            status, said = "405 Method Not Allowed", "GET and HEAD alone"
            fields.append(("Allow", "GET, HEAD"))
        else:
            said = reason_of(self._readiness())
            status = "503 Service Unavailable" if said else "200 OK"
        body = f"{said or 'ready'}\n".encode()
        return Told(status, [*fields, ("Content-Length", str(len(body)))], body)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer, as a WSGI application."""
        environ[UNLOGGED] = True
        status, fields, body = self.told(environ["REQUEST_METHOD"])
        start_response(status, fields)
        return [body]
