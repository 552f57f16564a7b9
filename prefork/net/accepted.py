"""The connections that this process has accepted, found among its descriptors.

Whoever accepts in C, or in somebody else's loop, tells nobody what it holds. But a connection has the address of its
listener, and a peer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prefork.system.descriptors import socket_of
from prefork.system.natives import os, socket

Name = int | str | bytes
"""What a connection has in common with its listener: the port, or the path or abstract name."""


def name_of(sock: socket.socket) -> Name:
    """The name of a listener or of a connection.

    Raises:
        OSError: It has none any more.
    """
    name: tuple[str, int] | str | bytes = sock.getsockname()
    return name[1] if isinstance(name, tuple) else name


def sockets(names: frozenset[Name]) -> Iterator[tuple[int, socket.socket]]:
    """Every socket of this process that has one of these names.

    Returns:
        Its descriptor, and a socket on a duplicate of that, to look at or to shut down, which is closed when the next
        is asked for: its owner may close it at any moment, and the number be given to something else.
    """
    try:
        numbers = os.listdir("/proc/self/fd")
    except OSError:
        return  # no descriptor to look with: nothing is known
    for number in numbers:
        try:
            if not os.readlink(f"/proc/self/fd/{number}").startswith("socket:"):
                continue
            copy = os.dup(int(number))
            try:
                found = socket_of(copy)
            except OSError:
                os.close(copy)
                continue
            with found:
                if found.family in _FAMILIES and name_of(found) in names:
                    yield int(number), found
        except OSError:
            continue  # it was closed meanwhile, or is a socket of another kind


def connections(names: frozenset[Name]) -> Iterator[tuple[int, socket.socket]]:
    """As `sockets`, those that have a peer: listeners have none, one that was shut down neither."""
    for number, found in sockets(names):
        try:
            found.getpeername()
        except OSError:
            continue
        yield number, found


_FAMILIES: Final = frozenset({socket.AF_INET, socket.AF_INET6, socket.AF_UNIX})
