"""What can't be served, each in another way."""

from __future__ import annotations

import sys
from typing import Any

from prefork import embed

sys.modules["bjoern"] = None  # type: ignore[assignment]  # what makes an import of it fail

without_bjoern = embed.bjoern("application:wsgi")
without_application = embed.wsgiref("application:wsg")


async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """An application that refuses to start up."""
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "this one does not start up"})


that_does_not_start_up = embed.uvicorn(asgi)
that_hypercorn_does_not_start_up = embed.hypercorn(asgi)
