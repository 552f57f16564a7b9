"""Clients whom the machine holds up: a server that leaves them after a fraction of a second is right."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

PATIENCE: Final = 60.0
"""Seconds for which it is tried to be in time."""


def unless_held_up(seconds: float, act: Callable[[], T]) -> T:
    """What ``act`` gives; where it fails, and took longer than its client has, it is repeated.

    Args:
        seconds: How long the server waits for such a client; a failure within them is one.
        act: Connects anew each time.

    Returns:
        What the first ``act`` that succeeded has given.
    """
    end = time.monotonic() + PATIENCE
    while True:
        began = time.monotonic()
        try:
            return act()
        except Exception:
            now = time.monotonic()
            if now - began < seconds or now > end:
                raise
