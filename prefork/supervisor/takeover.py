"""Takeover: a successor on the same port, beside its predecessor, and nobody refused in between.

The successor binds with SO_REUSEPORT but does not listen yet, so the kernel gives it nothing. Its workers boot, say
READY and wait. Only then it listens, lets them accept, and stops the predecessor losslessly: new handshakes that the
gated predecessor drops are tried again by their clients and reach the successor. A successor that fails to boot has
never listened, so it takes nobody with it, and the predecessor goes on.

Who the predecessor is its pidfile says, and the lock on it proves: a number that a killed server left behind may be
anybody's by now.

All of it runs in the MASTER of the successor.
"""

from __future__ import annotations

import errno
import logging

from prefork.errors import SettingsError
from prefork.supervisor.event_loop import Loop
from prefork.supervisor.heir import Heir
from prefork.supervisor.resources import Resources
from prefork.system.lockfile import locked_by, read
from prefork.system.natives import os, signal
from prefork.system.need import told

log = logging.getLogger("prefork")


class Takeover:
    """The takeover from one predecessor.

    Args:
        loop: tells of the predecessor's end.
        pidfile: the predecessor's.

    Raises:
        SettingsError: the file is not there, or no process has the pid in it and the lock on it.
    """

    def __init__(self, loop: Loop, pidfile: str) -> None:
        self._loop = loop
        self._pid, self._pidfd = _predecessor(pidfile)

    def complete(self, held: Resources) -> None:
        """Every worker is READY: listen, let them accept, and stop the predecessor."""
        for listener in held.listeners:
            listener.listen()
        os.eventfd_write(held.go, 1)
        Heir(self._loop, self._pid, held.queue, self._stop)

    def _stop(self) -> None:
        if self._pidfd < 0:
            return  # we end ourselves
        log.info("takeover: stopping the predecessor, pid %d", self._pid)
        try:
            signal.pidfd_send_signal(self._pidfd, signal.SIGTERM)
        except ProcessLookupError:
            self._ended()
        except PermissionError as error:
            log.error("takeover: can't stop the predecessor, pid %d: %s; both serve", self._pid, error)
            self.close()
        else:
            self._watch()

    def _watch(self) -> None:
        """Have the predecessor's end told in the log; that is all that is lost when the kernel has no room for it."""
        try:
            self._loop.register(self._pidfd, self._ended)
        except OSError as error:
            log.warning("takeover: can't see when the predecessor, pid %d, ends: %s", self._pid, error)
            self.close()

    def _ended(self) -> None:
        log.info("takeover: the predecessor, pid %d, has ended", self._pid)
        self.close()

    def close(self) -> None:
        """Look no more. Idempotent."""
        if self._pidfd >= 0:
            self._loop.unregister(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1


def check(pidfile: str) -> None:
    """Find out whether there is a predecessor to take over from.

    Args:
        pidfile: the predecessor's.

    Raises:
        SettingsError: as :class:`Takeover`.
    """
    os.close(_predecessor(pidfile)[1])


def _predecessor(pidfile: str) -> tuple[int, int]:
    """The pid and a pidfd of it, which is the caller's to close."""
    said, file = _opened(pidfile)
    try:
        pid = _pid(said, pidfile)
        pidfd = _pidfd_of(pid, pidfile)  # first, so that the number stays that process's
        try:
            if not locked_by(file, pid):
                raise SettingsError(
                    f"takeover: {pidfile} is stale: the process that has the pid {pid} now does not hold it; "
                    "start without takeover, or name the predecessor's pidfile"
                )
        except BaseException:
            os.close(pidfd)
            raise
        return pid, pidfd
    finally:
        os.close(file)


def _opened(pidfile: str) -> tuple[str, int]:
    try:
        return read(pidfile)
    except OSError as error:
        said = told(error, "name the predecessor's pidfile")
        raise SettingsError(f"takeover: can't read {pidfile}: {said}") from None


def _pid(text: str, pidfile: str) -> int:
    if not (text.isdecimal() and len(text) < 10 and 0 < int(text) < 1 << 22):
        raise SettingsError(f"takeover: {pidfile} holds {text[:40]!r}, not a pid; name the predecessor's pidfile")
    if int(text) == os.getpid():
        raise SettingsError(f"takeover: {pidfile} holds the pid of this very process; start without takeover")
    return int(text)


def _pidfd_of(pid: int, pidfile: str) -> int:
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno not in {errno.ESRCH, errno.EINVAL}:
            raise
        raise SettingsError(f"takeover: no process has the pid {pid} of {pidfile}; start without takeover") from None
