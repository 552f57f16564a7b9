"""The path on which a worker says, below the application, whether the server is fit for new clients."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from prefork.scoreboard.layout import Readiness
from prefork.status.agent import reason_of

UNLOGGED: Final = "prefork.unlogged"
"""What a request has in its environ that the access log leaves out: balancers ask every second or two."""


class HealthCheck:
    """WORKER. The application of one path, for GET and HEAD: 200, or 503 with the reason.

    Args:
        path: The path; with a query, too.
        readiness: Whether the server is fit.
    """

    def __init__(self, path: str, readiness: Callable[[], Readiness]) -> None:
        self._targets = path.encode(), f"{path}?".encode()
        self._readiness = readiness

    def asked_for(self, target: bytes) -> bool:
        """Whether a request's target is this path."""
        path, with_query = self._targets
        return target == path or target.startswith(with_query)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer."""
        environ[UNLOGGED] = True
        fields = [("Content-Type", "text/plain"), ("Cache-Control", "no-store")]
        if environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
            status, said = "405 Method Not Allowed", "GET and HEAD alone"
            fields.append(("Allow", "GET, HEAD"))
        else:
            said = reason_of(self._readiness())
            status = "503 Service Unavailable" if said else "200 OK"
        body = f"{said or 'ready'}\n".encode()
        start_response(status, [*fields, ("Content-Length", str(len(body)))])
        return [body]
