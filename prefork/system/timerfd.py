"""A timer that is a descriptor (timerfd_create(2)): readable once its time is over, so that a poll can wait for it.

The standard library has it from 3.13 on only, and what is needed here is one shot on the monotonic clock.
"""

from __future__ import annotations

import ctypes
from typing import Final

from prefork.system.natives import os, time

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_NO_WAIT: Final = os.O_NONBLOCK | os.O_CLOEXEC  # TFD_NONBLOCK, TFD_CLOEXEC


class _Spec(ctypes.Structure):
    """``struct itimerspec``: the interval of a timer that repeats, then the time until it first expires."""

    _fields_ = (
        ("every_seconds", ctypes.c_long),
        ("every_nanoseconds", ctypes.c_long),
        ("seconds", ctypes.c_long),
        ("nanoseconds", ctypes.c_long),
    )


class TimerFd:
    """One shot, as often as it is set. Any process; a child that is forked shares it.

    Raises:
        OSError: There is no descriptor to be had.
    """

    def __init__(self) -> None:
        self._fd: int = _LIBC.timerfd_create(time.CLOCK_MONOTONIC, _NO_WAIT)
        if self._fd < 0:
            raise _error()

    def fileno(self) -> int:
        """The descriptor; readable from the moment the time is over until `take_tick`, `set` or `stop`."""
        return self._fd

    def set(self, seconds: float) -> None:
        """Expire in ``seconds``; what was set before is forgotten."""
        self._set(max(1, int(seconds * 1e9)))  # zero would switch it off

    def stop(self) -> None:
        """Be silent until it is set again, whether its time is over or not."""
        self._set(0)

    def _set(self, nanoseconds: int) -> None:
        spec = _Spec(0, 0, *divmod(nanoseconds, 10**9))
        if _LIBC.timerfd_settime(self._fd, 0, ctypes.byref(spec), None) < 0:
            raise _error()

    def take_tick(self) -> bool:
        """Whether it has expired since it was set; asked once, it is not readable any more."""
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Give the descriptor back. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
