"""From the number that accept(2) gives to a socket object, in steps of which none runs Python code.

`socket.accept` makes the object in Python, and converts enums: that is dearer than the system call, and an exception
that an application has had raised may end it half-way, when the number is in no hand any more (see
`prefork.accept.acceptor`).
"""

from __future__ import annotations

from _socket import socket as CSocket  # noqa: N812  # a class, whose C name is in small letters
from collections.abc import Callable
from operator import attrgetter
from typing import Any, Final

from prefork.system.natives import socket

Raw = tuple[int, Any]
"""A descriptor and the peer's address."""

Accept = Callable[[], Raw]
"""What gives one connection after the other."""

raw_accept: Final[Callable[[socket.socket], Accept]] = attrgetter("_accept")
"""The method of a listening socket that accept() is built upon, in CPython as in gevent."""

new_socket = socket.socket

# What socket.socket() does: between the two and with `_io_refs` and `_closed` after them, nothing of Python's runs.
allocate, initialise = new_socket.__new__, CSocket.__init__

UNKNOWN: Final = (-1, -1, -1)
"""Family, type and protocol that the kernel is asked for."""

_family, _type = socket.SocketType.family.__get__, socket.SocketType.type.__get__


def numbers_of(listener: socket.socket) -> tuple[int, int, int]:
    """Family, type and protocol, as numbers: the socket's own attributes make an enum's members of them."""
    return _family(listener), _type(listener), listener.proto
