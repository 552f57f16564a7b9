"""A WSGI server (PEP 3333) on the public Worker API: one request a connection, one at a time in each worker.

The names here are imported when they are first used, so that the options can be described where httptools, which comes
with ``prefork[wsgi]``, is not installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefork.wsgi.options import WSGIOptions
    from prefork.wsgi.service import Service

__all__ = ["Service", "WSGIOptions"]


def __getattr__(name: str) -> Any:
    if name == "WSGIOptions":
        from prefork.wsgi.options import WSGIOptions

        return WSGIOptions
    if name == "Service":
        from prefork.wsgi.service import Service

        return Service
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
