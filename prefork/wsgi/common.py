"""What all workers of a server have in common that the master alone can make, or know."""

from __future__ import annotations

from typing import Final

from prefork.system.natives import os
from prefork.system.record import Record, fresh
from prefork.system.throttle import SharedThrottle

STRANGERS_INTERVAL: Final = 3600.0
"""Seconds between two lines of a server about peers who speak as proxies do (`prefork.wsgi.strangers`)."""


def _tz() -> str | None:
    return os.environ.get("TZ")


class Common(Record):
    """MASTER makes it, before it forks and before the application runs.

    Attributes:
        strangers: One condition for peers of private addresses, one for all others.
        tz: What TZ was in the environment.
    """

    strangers: SharedThrottle = fresh(factory=lambda: SharedThrottle(2, STRANGERS_INTERVAL))
    tz: str | None = fresh(factory=_tz)
