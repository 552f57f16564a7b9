"""What descriptors this process holds, and the one it keeps in reserve to find out.

At the limit not even ``/proc`` can be opened. So a process keeps one spare descriptor, and gives it up for as long as
it looks.
"""

from __future__ import annotations

import collections
import os
import socket
from types import TracebackType

from prefork.address import format_peer

MOST = 10
"""Lines of a census."""


class Spare:
    """One descriptor in reserve; ``with spare:`` gives it up for the block.

    Attributes:
        held: whether it is in reserve now; False when it could not be had back after the last use.
    """

    def __init__(self) -> None:
        self._fd = -1
        self.take()

    @property
    def held(self) -> bool:
        """Whether the descriptor is in reserve."""
        return self._fd >= 0

    def take(self) -> bool:
        """Put a descriptor in reserve; False when there is none to be had."""
        if self._fd < 0:
            try:
                self._fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return False
        return True

    def give(self) -> None:
        """Give it up. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> None:
        """Give it up for the block."""
        self.give()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Take it back if that can be done."""
        self.take()


def descriptors() -> list[int]:
    """The open descriptors of this process (proc(5), /proc/self/fd).

    Raises:
        OSError: it can't be read; EMFILE at the limit.
    """
    with os.scandir("/proc/self/fd") as entries:
        found = [int(entry.name) for entry in entries]
    # The descriptor that the folder was read by is closed by now.
    return [fd for fd in found if _is_open(fd)]


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def census(found: list[int] | None = None) -> list[str]:
    """What the descriptors are, most frequent first, ``MOST`` lines: "37 file /var/data.csv".

    Args:
        found: the descriptors; all open ones when None.

    Raises:
        OSError: as :func:`descriptors`.
    """
    counts = collections.Counter(_describe(fd) for fd in (descriptors() if found is None else found))
    return [f"{count} {what}" for what, count in counts.most_common(MOST)]


def _describe(fd: int) -> str:
    """Kind and target of one descriptor, such that those that leak by one cause read the same."""
    try:
        link = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return "unknown"
    kind, _, rest = link.partition(":")
    if kind == "socket":
        return _socket(fd)
    if kind == "pipe":
        return "pipe"
    if kind == "anon_inode":
        return rest.strip("[]")
    return f"file {link}"


def _socket(fd: int) -> str:
    try:
        with socket.socket(fileno=os.dup(fd)) as copy:
            return _connected(copy)
    except OSError:
        return "socket"


def _connected(sock: socket.socket) -> str:
    family = sock.family.name
    try:
        peer = sock.getpeername()
    except OSError:
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        return f"socket {family} {'listening' if listens else 'not connected'}"
    if isinstance(peer, tuple):
        # Without the port: the connections to one database are one kind of leak.
        return f"socket {family} to {peer[0]}" if sock.getsockname()[1] != peer[1] else f"socket {family}"
    return f"socket {family} to {format_peer(peer)}"
