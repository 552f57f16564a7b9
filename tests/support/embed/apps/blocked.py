"""The examples' servers with an application that hangs for ``?block``: ``blocked:uvicorn`` and so on.

It spins, because gevent makes of a sleep something that does not block.
"""

from __future__ import annotations

import importlib
import time
from typing import Any

import application  # type: ignore[import-not-found]  # on PYTHONPATH when this is served

from prefork import embed

_seconds = application.seconds


def seconds(query: str) -> float:
    """Hang, or say what the query asks to wait."""
    end = time.monotonic() + 600 * ("block" in query)
    while time.monotonic() < end:
        pass
    return float(_seconds(query))


application.seconds = seconds

on_asyncio = embed.uvicorn("application:asgi", access_log=False, loop="asyncio")
on_uvloop = embed.uvicorn("application:asgi", access_log=False, loop="uvloop")


def __getattr__(name: str) -> Any:
    return importlib.import_module(f"with_{name}").Worker
