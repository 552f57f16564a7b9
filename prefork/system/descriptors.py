"""What descriptors this process holds, and the one it keeps in reserve to find out; and waiting until one is readable.

At the limit not even ``/proc`` can be opened. So a process keeps one spare descriptor, and gives it up for as long as
it looks.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Collection, Iterable
from types import TracebackType
from typing import TypeVar

from prefork.system.natives import os, select, socket
from prefork.system.peer import format_peer

open_file = os.open
stat = os.stat
POLLIN = select.POLLIN
poll = select.poll

T = TypeVar("T")

_SPARE_FLAGS = os.O_RDONLY | os.O_CLOEXEC

MOST = 10
"""Lines of a census."""


class SpareDescriptor:
    """One descriptor in reserve, once it has been taken; ``with spare:`` gives it up for the block.

    Attributes:
        held: whether it is in reserve now; False when it could not be had back after the last use.
    """

    def __init__(self) -> None:
        self._fd = -1

    @property
    def held(self) -> bool:
        """Whether the descriptor is in reserve."""
        return self._fd >= 0

    @property
    def descriptors(self) -> tuple[int, ...]:
        """It, while it is in reserve."""
        return (self._fd,) if self.held else ()

    def take(self) -> bool:
        """Put a descriptor in reserve; False when there is none to be had."""
        if self._fd < 0:
            try:
                self._fd = open_file("/dev/null", _SPARE_FLAGS)
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


def descriptors() -> list[int]:
    """The open descriptors of this process (proc(5), /proc/self/fd).

    Raises:
        OSError: it can't be read; EMFILE at the limit.
    """
    with os.scandir("/proc/self/fd") as entries:
        found = [int(entry.name) for entry in entries]
    # The descriptor that the folder was read by is closed by now.
    return [fd for fd in found if _is_open(fd)]


def held() -> int:
    """How many descriptors this process holds (count).

    Since Linux 6.2 the size of /proc/self/fd says it (proc(5)): one call, which needs no descriptor, where reading the
    folder makes the kernel build an entry for each.

    Raises:
        OSError: as :func:`descriptors`, on an older kernel.
    """
    return stat("/proc/self/fd").st_size or len(descriptors())


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def census(found: Collection[int] | None = None) -> list[str]:
    """What the descriptors are, most frequent first, ``MOST`` lines: "37 file /var/data.csv".

    Args:
        found: the descriptors; all open ones when None.

    Raises:
        OSError: as :func:`descriptors`.
    """
    found = descriptors() if found is None else found
    places = {_look(fd, _listening_place) for fd in found}
    counts = collections.Counter(describe(fd, places) for fd in found)
    return [f"{count} {what}" for what, count in counts.most_common(MOST)]


def accepted(found: Iterable[int], listeners: Iterable[socket.socket]) -> int:
    """How many of the descriptors are connections that came through one of ``listeners``."""
    places: set[object] = {_place(listener) for listener in listeners}
    return sum(bool(_look(fd, lambda sock: _peer(sock) is not None and _place(sock) in places)) for fd in found)


def describe(fd: int, places: Collection[object] = ()) -> str:
    """Kind and target of one descriptor, such that those that leak by one cause read the same.

    Args:
        fd: the descriptor.
        places: where others of this process listen.
    """
    try:
        link = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return "unknown"
    kind, _, rest = link.partition(":")
    if kind == "socket":
        return _look(fd, lambda sock: _socket(sock, places)) or "socket"
    if kind == "pipe":
        return "pipe"
    if kind == "anon_inode":
        return rest.strip("[]")
    return "file " + "".join(char if char.isprintable() else "?" for char in link)


def socket_of(fd: int) -> socket.socket:
    """A socket object to look at the socket by that a descriptor is; not to wait with, and of no true ``type``.

    A default timeout of the application's (`socket.setdefaulttimeout`) is given to each object that is made, and would
    make the socket non-blocking, for every process that shares it. Not where that is told to be so already.

    Raises:
        OSError: it is no socket, or closed; the descriptor is still the caller's.
    """
    return socket.socket(-1, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, -1, fileno=fd)


def _look(fd: int, at: Callable[[socket.socket], T]) -> T | None:
    """What ``at`` makes of a socket, which stays open and as it is; None for what is not a socket, or gone."""
    try:
        sock = socket_of(fd)
    except OSError:
        return None
    try:
        return at(sock)
    except OSError:
        return None
    finally:
        sock.detach()


def _listening_place(sock: socket.socket) -> object:
    return _place(sock) if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) else None


def _place(sock: socket.socket) -> object:
    """What a listener and the connections accepted from it have in common: the port, or the path."""
    name = sock.getsockname()
    kind = sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
    return (kind, name[1] if isinstance(name, tuple) else name)


def _peer(sock: socket.socket) -> object:
    try:
        return sock.getpeername()
    except OSError:
        return None


def _socket(sock: socket.socket, places: Collection[object]) -> str:
    """Family and peer. Who has connected to us is named by the host, whom we have connected to by the port as well."""
    family, place, peer = sock.family.name, _listening_place(sock), _peer(sock)
    if place is not None:
        return f"socket {family} listening"
    if peer is None:
        return f"socket {family} not connected"
    if sock.family not in {socket.AF_INET, socket.AF_INET6, socket.AF_UNIX}:
        return f"socket {family}"
    if _place(sock) in places:
        return f"socket {family} from {peer[0] if isinstance(peer, tuple) else 'a client'}"
    return f"socket {family} to {format_peer(peer)}"
