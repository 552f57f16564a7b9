"""A WSGI server (PEP 3333) on the public Worker API: one request at a time in each thread, on kept connections.

The WORKER runs it; the command's process its flags, and the exporter of metrics, which it serves. No other room imports
it but for the command, when that is `prefork wsgi`.

The names here are imported when they are first used, so that the options can be described where httptools, which comes
with ``prefork[wsgi]``, is not installed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from prefork.wsgi.gateway import Gateway
    from prefork.wsgi.options import WSGIOptions
    from prefork.wsgi.worker import WSGIWorker, serve, serving

_HOMES: Final = {
    "Gateway": "gateway",
    "WSGIOptions": "options",
    "WSGIWorker": "worker",
    "serve": "worker",
    "serving": "worker",
}

__all__ = ["Gateway", "WSGIOptions", "WSGIWorker", "serve", "serving"]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
