"""The application that the HTTP servers under measurement run: six bytes, and /slow takes its time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

SLOW = 0.02
"""Seconds that a request for /slow takes."""

HEADERS = [("Content-Type", "text/plain"), ("Content-Length", "6")]


def application(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
    """WSGI."""
    if environ["PATH_INFO"] == "/slow":
        time.sleep(SLOW)  # being slow is what it is for
    start_response("200 OK", HEADERS)
    return [b"hello\n"]


async def asgi(scope: dict[str, Any], _receive: object, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
    """ASGI, without the lifespan protocol."""
    if scope["type"] != "http":
        raise ValueError(f"{scope['type']} is not spoken here")
    if scope["path"] == "/slow":
        await asyncio.sleep(SLOW)  # being slow is what it is for
    headers = [(name.lower().encode(), value.encode()) for name, value in HEADERS]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello\n"})
