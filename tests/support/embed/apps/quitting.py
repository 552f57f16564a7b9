"""The examples' servers with an application that calls sys.exit for ``?quit``: ``quitting:uvicorn`` and so on.

For ``?beside`` that is done by something of the application's that is no request, for ``?later`` in half a second;
``?halt`` stops the loop.
"""

from __future__ import annotations

import importlib
import sys
from asyncio import get_running_loop
from typing import Any

import application  # type: ignore[import-not-found]  # on PYTHONPATH when this is served

_seconds = application.seconds


def seconds(query: str) -> float:
    """Quit, or say what the query asks to wait."""
    if "quit" in query:
        sys.exit(3)
    if "beside" in query:
        beside(0.0)
    if "later" in query:
        beside(0.5)
        print("QUITS later", flush=True)
    if "halt" in query:
        get_running_loop().stop()
    return float(_seconds(query))


def beside(wait: float) -> None:
    """Have the loop quit."""
    try:
        get_running_loop().call_later(wait, sys.exit, 3)
    except RuntimeError:
        importlib.import_module("gevent").spawn_later(wait, sys.exit, 3)


application.seconds = seconds


def __getattr__(name: str) -> Any:
    return importlib.import_module(f"with_{name}").Worker
