"""Which calls fail: the patterns that `prefork.testing.faults.Injector` is given.

A pattern counts the calls that it is asked about itself, so one of each can be in force for each name, and a fresh one
begins anew. Anything callable will do in its place.
"""

from __future__ import annotations

from collections.abc import Callable

from prefork.system.natives import time

Pattern = Callable[[int], int]
"""Asked about each call, with the caller's pid: the errno to fail it with, or 0 to let it through."""


def always(error: int) -> Pattern:
    """Fail every call, until another pattern is set or the injector released.

    Args:
        error: The errno.

    Returns:
        The pattern.
    """
    return lambda _pid: error


def first(calls: int, error: int) -> Pattern:
    """Fail the next so many calls, whoever makes them.

    Args:
        calls: How many.
        error: The errno.

    Returns:
        The pattern.
    """
    left = calls

    def pattern(_pid: int) -> int:
        nonlocal left
        left -= 1
        return error if left >= 0 else 0

    return pattern


def once(error: int) -> Pattern:
    """Fail the next call.

    Args:
        error: The errno.

    Returns:
        The pattern.
    """
    return first(1, error)


def every(nth: int, error: int) -> Pattern:
    """Fail each n-th call.

    Args:
        nth: 3 lets two calls through and fails the third.
        error: The errno.

    Returns:
        The pattern.
    """
    seen = 0

    def pattern(_pid: int) -> int:
        nonlocal seen
        seen += 1
        return 0 if seen % nth else error

    return pattern


def lasting(seconds: float, error: int) -> Pattern:
    """Fail every call for a time, which begins with the first of them.

    Args:
        seconds: How long.
        error: The errno.

    Returns:
        The pattern.
    """
    end: float | None = None

    def pattern(_pid: int) -> int:
        nonlocal end
        now = time.monotonic()
        if end is None:
            end = now + seconds
        return error if now < end else 0

    return pattern


def per_process(make: Callable[[], Pattern]) -> Pattern:
    """Give each process a pattern of its own: ``per_process(lambda: once(EMFILE))`` fails one call of every process.

    Args:
        make: Makes a process's pattern, when its first call is met.

    Returns:
        The pattern.
    """
    patterns: dict[int, Pattern] = {}

    def pattern(pid: int) -> int:
        if pid not in patterns:
            patterns[pid] = make()
        return patterns[pid](pid)

    return pattern
