"""A WSGI application without a framework: a form, an upload of any size, a download by the kernel.

prefork wsgi wsgi_app:application --app-dir examples --bind 127.0.0.1:8000 --access-log -

curl http://127.0.0.1:8000/?name=you
curl --data-binary @/usr/bin/python3 http://127.0.0.1:8000/upload
curl http://127.0.0.1:8000/source
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

Environ = dict[str, Any]
Start = Callable[[str, list[tuple[str, str]]], object]


def application(environ: Environ, start_response: Start) -> Iterable[bytes]:
    """Answer one request, in a worker process."""
    pages = {"/": hello, "/upload": upload, "/source": source}
    page = pages.get(environ["PATH_INFO"])
    if page is None:
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"There is nothing here.\n"]
    return page(environ, start_response)


def hello(environ: Environ, start_response: Start) -> Iterable[bytes]:
    """Greet whom the query names."""
    (name,) = parse_qs(environ["QUERY_STRING"]).get("name", ["world"])
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    return [f"Hello, {name}!\n".encode()]


def upload(environ: Environ, start_response: Start) -> Iterable[bytes]:
    """Say what came, having read it piece by piece: no body is ever whole in memory."""
    digest, length = hashlib.sha256(), 0
    while piece := environ["wsgi.input"].read(65536):
        digest.update(piece)
        length += len(piece)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{length} bytes, sha256 {digest.hexdigest()}\n".encode()]


def source(environ: Environ, start_response: Start) -> Iterable[bytes]:
    """Send this file; ``wsgi.file_wrapper`` leaves that to sendfile(2)."""
    start_response("200 OK", [("Content-Type", "text/x-python")])
    sent: Iterable[bytes] = environ["wsgi.file_wrapper"](open(__file__, "rb"))  # noqa: SIM115  # the server closes it
    return sent
