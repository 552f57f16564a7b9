"""Wait for facts, never for seconds: a test that sleeps is too slow on a good day and too quick on a bad one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from prefork.system.natives import time

T = TypeVar("T")

TIMEOUT: Final = 30.0
"""How long anything here waits by default, in seconds: generous, for it is spent only when a test fails."""

_INTERVAL: Final = 0.005
"""Seconds between two looks, small beside what a server does; a look that takes long is followed by as long a rest."""


class NotInTimeError(AssertionError):
    """A fact that a test waited for did not come about."""


def call_until(
    function: Callable[[], T],
    predicate: Callable[[T], object] = bool,
    *,
    timeout: float = TIMEOUT,
    message: str = "",
) -> T:
    """Call ``function`` again and again until ``predicate`` holds for what it returns.

    Args:
        function: What to look at; called at least once.
        predicate: Whether the value is the one waited for; by default, whether it is true.
        timeout: Seconds to go on for.
        message: What was waited for, in words, for the error.

    Returns:
        The first value for which the predicate held.

    Raises:
        NotInTimeError: When time is up; it shows the last value.
    """
    deadline = time.monotonic() + timeout
    while True:
        began = time.monotonic()
        late = began > deadline  # read before the look, so that one look follows a long suspension
        value = function()
        if predicate(value):
            return value
        if late:
            awaited = message or getattr(predicate if predicate is not bool else function, "__qualname__", "a fact")
            raise NotInTimeError(f"waited {timeout:g} s for: {awaited}; it is {value!r}")
        # The fact lies in other processes, and nothing tells us when it comes about.
        time.sleep(min(max(_INTERVAL, time.monotonic() - began), 10 * _INTERVAL))


def wait_for(predicate: Callable[[], object], timeout: float = TIMEOUT, message: str = "") -> None:
    """Wait until ``predicate()`` is true.

    Args:
        predicate: The fact; called at least once.
        timeout: Seconds to go on for.
        message: The fact in words, for the error.

    Raises:
        NotInTimeError: When time is up.
    """
    call_until(predicate, timeout=timeout, message=message)
