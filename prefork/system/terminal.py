"""The terminal that a process belongs to, and the two signals by which its kernel stops background jobs.

Who reads such a terminal from the background is sent SIGTTIN, with its whole process group; who writes to one that is
set so (stty tostop) or changes its modes, SIGTTOU (termios(3), setpgid(2)). A handler for them doesn't help: the call
is begun again and the signal sent again, for ever. Who blocks or ignores them is stopped by neither: reading fails with
EIO, writing goes through.

A master means something else by the same two signals, one worker more and one fewer. :class:`Stops` tells those that
somebody has sent from those that are the kernel's.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import struct
from typing import Final

from prefork.system.natives import os, signal

SIGNALS: Final = (int(signal.SIGTTIN), int(signal.SIGTTOU))
"""What stops a background job that uses its terminal."""

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_NO_WAIT: Final = os.O_NONBLOCK | os.O_CLOEXEC  # SFD_NONBLOCK, SFD_CLOEXEC
_SET_BYTES: Final = 128  # sizeof(sigset_t)
_INFO: Final = struct.Struct("=Iii116x")
"""``struct signalfd_siginfo``: ssi_signo, ssi_errno, ssi_code."""


@functools.cache
def controlling() -> bool:
    """Whether this process has a controlling terminal: /dev/tty can be opened (tty(4)).

    Asked once, for a process that is not the leader of its session can lose one but gets none.
    """
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError:
        return False
    return True


class Stops:
    """MASTER. :data:`SIGNALS`, blocked and read from a descriptor, with who has sent each (signalfd(2)).

    Raises:
        OSError: there is no descriptor to be had; they stay blocked then, as does all that they would do.
    """

    def __init__(self) -> None:
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        mask = sum(1 << (signum - 1) for signum in SIGNALS).to_bytes(_SET_BYTES, "little")
        self._fd: int = _LIBC.signalfd(-1, mask, _NO_WAIT)
        if self._fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def fileno(self) -> int:
        """The descriptor, readable when one has come."""
        return self._fd

    def take_signals(self) -> list[int]:
        """Those that a process has sent since the last call; the kernel's own are left out (ssi_code, sigaction(2))."""
        sent = []
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._fd, _INFO.size):
                signum, _, code = _INFO.unpack(data)
                if code <= 0:
                    sent.append(signum)
        return sent

    def close(self) -> None:
        """Give the descriptor and the mask back. Idempotent."""
        if self._fd >= 0:
            self.take_signals()  # what is left there would stop the process as soon as it is let in
            os.close(self._fd)
            self._fd = -1
            signal.pthread_sigmask(signal.SIG_UNBLOCK, set(SIGNALS) - self._before)
