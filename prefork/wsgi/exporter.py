"""``prefork exporter``: the metrics of a running server over HTTP, by prometheus_client, on the WSGI server.

A scrape is one connection of one worker; another worker is there for the case that a client is slow.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from prefork.cli.commands import CommandParser
from prefork.config import address, launch
from prefork.errors import PreforkError
from prefork.services import log as logs

_LONGEST: Final = 16 * 1024
"""Bytes of a request's line."""

_PATIENCE: Final = 5.0
"""Seconds that a client may be silent, and that it has for its request."""

_TIME: Final = 30.0
"""Seconds that one scrape may take altogether."""

_METHODS: Final = ("GET", "HEAD")


def exporter(argv: Sequence[str]) -> int:
    """``prefork exporter``."""
    parser = CommandParser(
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
    for needed in ("prometheus_client", "httptools"):
        if importlib.util.find_spec(needed) is None:
            raise PreforkError(f"prefork exporter needs {needed}; pip install 'prefork[prometheus]'")
    launch.check_folder()
    logs.configure("info")
    from prefork.wsgi import WSGIOptions, serve

    return serve(
        application(arguments.control),
        options=WSGIOptions(limit_request_line=_LONGEST, header_timeout=_PATIENCE),
        bind=arguments.listen,
        workers=2,
        preload=False,
        io_timeout=_PATIENCE,
        timeout=_TIME,
    )


def application(control: str = "") -> Callable[[dict[str, Any], Any], Iterable[bytes]]:
    """What answers a scrape, as PEP 3333 has it: prometheus_client, at one path and with HEAD.

    Args:
        control: the control socket; by default that of the only server that runs here.
    """
    from prometheus_client import CollectorRegistry, make_wsgi_app

    from prefork.cli.metrics import Collector

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector(control))
    metrics = make_wsgi_app(registry)

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in _METHODS:
            start_response("405 Method Not Allowed", [("Allow", ", ".join(_METHODS))])
            return []
        if environ["PATH_INFO"] not in {"/", "/metrics"}:
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"the metrics are at /metrics\n"]
        body: Iterable[bytes] = metrics({**environ, "REQUEST_METHOD": "GET"}, start_response)
        return body  # of which the server sends nothing to a HEAD

    return answer
