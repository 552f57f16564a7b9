"""The examples' servers with an application that calls sys.exit for ``?quit``: ``quitting:uvicorn`` and so on."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import application  # type: ignore[import-not-found]  # on PYTHONPATH when this is served

_seconds = application.seconds


def seconds(query: str) -> float:
    """Quit, or say what the query asks to wait."""
    if "quit" in query:
        sys.exit(3)
    return float(_seconds(query))


application.seconds = seconds


def __getattr__(name: str) -> Any:
    return importlib.import_module(f"with_{name}").Worker
