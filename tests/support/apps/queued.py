"""A WSGI application that says for how long requests had waited, and that can make others wait."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any


def application(environ: dict[str, Any], start: Callable[..., object]) -> Iterable[bytes]:
    """``/begin/SECONDS`` answers at once, and in the end when that was; all else, what stands in the environ."""
    word, _, seconds = environ["PATH_INFO"][1:].partition("/")
    if word == "begin":
        start("200 OK", [("Content-Type", "text/plain")])
        return _slowly(float(seconds))
    body = json.dumps(environ.get("prefork.queue_time", "unknown")).encode()
    start("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def _slowly(seconds: float) -> Iterator[bytes]:
    yield b"begun\n"
    time.sleep(seconds)  # what others wait for
    yield repr(time.monotonic()).encode()
