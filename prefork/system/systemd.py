"""What a service manager says to a process and is told by it: sd_listen_fds(3), sd_watchdog_enabled(3), sd_notify(3).

It speaks through variables of the environment, and hears datagrams of ``NAME=value`` lines at a socket that one of them
names. What is said, and when, is `prefork.services.sd_notify`'s affair and `prefork.supervisor.fdstore`'s.
"""

from __future__ import annotations

import array
import logging
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Final

from prefork.errors import ListenError, printable
from prefork.system.natives import os, socket

log = logging.getLogger("prefork")

NOTIFY: Final = "NOTIFY_SOCKET"
WATCHDOG: Final = ("WATCHDOG_USEC", "WATCHDOG_PID")

_LISTEN: Final = ("LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES")
_FIRST_FD: Final = 3  # SD_LISTEN_FDS_START (sd_listen_fds(3))
_COUNT_DIGITS: Final = 6  # of a count of descriptors; more than a process can have would only cost memory
_UNNAMED: Final = "unknown"  # what sd_listen_fds_with_names(3) calls a socket without a name
_DIGITS: Final = 20  # of an unsigned number of 64 bits
_SHORTEST: Final = 0.001  # seconds between two signs of life


def listen_fds(environ: MutableMapping[str, str]) -> dict[str, tuple[int, ...]]:
    """The descriptors that the service manager passed, by name, in its order (sd_listen_fds_with_names(3)).

    They become close-on-exec, and the variables are removed, so that neither reaches a worker's children.

    Args:
        environ: The environment, usually ``os.environ``.

    Returns:
        Nothing when the variables are missing or meant for another process.

    Raises:
        ListenError: The variables contradict themselves.
    """
    pid, _, count, listed = (environ.pop(name, "") for name in _LISTEN)
    if pid != str(os.getpid()):
        return {}
    if not (count.isascii() and count.isdecimal() and len(count) <= _COUNT_DIGITS):
        raise ListenError(f"bind: systemd: LISTEN_FDS={count[:20]!r} is not a count; start through the service manager")
    fds = range(_FIRST_FD, _FIRST_FD + int(count))
    names = listed.split(":") if listed else [_UNNAMED] * len(fds)
    if len(names) != len(fds):
        raise ListenError(f"bind: systemd: LISTEN_FDNAMES names {len(names)} sockets, LISTEN_FDS counts {len(fds)}")
    by_name: dict[str, tuple[int, ...]] = {}
    for name, fd in zip(names, fds, strict=True):
        try:
            os.set_inheritable(fd, False)
        except OSError:
            raise ListenError(f"bind: systemd: LISTEN_FDS={count}, but descriptor {fd} is not open") from None
        by_name[name] = (*by_name.get(name, ()), fd)
    return by_name


def watchdog(environ: Mapping[str, str], pid: int) -> float:
    """Seconds within which the manager wants a sign of life (sd_watchdog_enabled(3)); 0 when it wants none.

    Args:
        environ: The environment.
        pid: This process, for which alone the interval may be meant.
    """
    interval, whose = WATCHDOG
    if environ.get(whose, str(pid)) != str(pid):
        return 0.0
    microseconds = environ.get(interval, "")
    if not (microseconds.isascii() and microseconds.isdecimal() and len(microseconds) <= _DIGITS):
        return 0.0
    seconds = int(microseconds) / 1e6
    return seconds if seconds >= _SHORTEST else 0.0


def notify_address(environ: Mapping[str, str]) -> str | None:
    """Where the manager listens, as connect(2) takes it; None when there is none that could be told anything."""
    name = environ.get(NOTIFY, "")
    if name.startswith("@"):
        return "\0" + name[1:]
    return name if name.startswith("/") else None


def be_silent(environ: MutableMapping[str, str]) -> None:
    """Take the manager's variables away: nothing that this process loads or starts speaks for the service.

    Args:
        environ: The environment.
    """
    for name in (NOTIFY, *WATCHDOG):
        environ.pop(name, None)


class NotifySocket:
    """The way to the manager. Nothing here blocks.

    Args:
        where: What :func:`notify_address` gave.

    Raises:
        OSError: There is no descriptor to be had.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def fileno(self) -> int:
        """The descriptor."""
        return self._sock.fileno()

    def send(self, message: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send one message.

        Args:
            message: From :func:`encoded`.
            descriptors: Sent along (unix(7), SCM_RIGHTS).

        Raises:
            BlockingIOError: The manager's queue is full.
            OSError: Nobody listens there, or the message is too long (send(2)).
        """
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        self._sock.sendmsg([message], rights, 0, self._where)

    def detach(self) -> None:
        """Forget the descriptor, which somebody else has closed."""
        self._sock.detach()

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        self._sock.close()


def encoded(*lines: str) -> bytes:
    """A message: "READY=1" and the like, one line each whatever they hold. Pure."""
    return "\n".join(printable(" ".join(line.splitlines())) for line in lines).encode(errors="replace")


def notify(where: str | None, *lines: str, descriptors: Sequence[int] = ()) -> bool:
    """Send one message now or not at all, as :meth:`NotifySocket.send` does; never fails.

    Args:
        where: What :func:`notify_address` gave.
        lines: What the message says.
        descriptors: Sent along.

    Returns:
        Whether it was sent.
    """
    if where is None:
        return False
    try:
        manager = NotifySocket(where)
        try:
            manager.send(encoded(*lines), descriptors)
        finally:
            manager.close()
    except OSError as error:
        log.warning("can't tell the service manager %s: %s", lines[0], error)
        return False
    return True
