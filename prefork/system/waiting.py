"""Waiting for descriptors, as poll(2) does it: any number of them, whatever their numbers."""

from __future__ import annotations

from select import POLLIN, poll  # bound now: gevent's patches put a poll of their own into the module


def readable(*descriptors: int, seconds: float | None = 0.0) -> bool:
    """Wait until one of ``descriptors`` is readable.

    Args:
        descriptors: which.
        seconds: how long at the most; 0 only looks, None waits for ever.

    Returns:
        Whether one is. A signal handler that returns does not end the wait (PEP 475).
    """
    poller = poll()
    for descriptor in descriptors:
        poller.register(descriptor, POLLIN)
    return bool(poller.poll(None if seconds is None else max(0.0, seconds) * 1000))
