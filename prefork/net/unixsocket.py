"""UnixSocket: a unix socket by its descriptor (unix(7)). It has a name where others have an address."""

from __future__ import annotations

import ctypes
import errno
import struct
from typing import Final

from prefork.net.kernelsocket import KernelSocket, call, libc, os_error
from prefork.system.natives import os
from prefork.system.natives import socket as std

_FAMILY: Final = struct.pack("=H", std.AF_UNIX)
PATH_BYTES: Final = 107
"""How long a path may be: sun_path without its closing NUL. An abstract name, which has none, may be one longer."""


class UnixSocket(KernelSocket):
    """A unix socket, held by its descriptor.

    Args:
        fd: A descriptor to take over; -1 for none.
    """

    __slots__ = ()

    def __init__(self, fd: int = -1) -> None:
        super().__init__(std.AF_UNIX, fd)

    def bind(self, name: str | bytes) -> None:
        """Give the socket a name (bind(2)).

        Args:
            name: A path, whose file this makes; or an abstract name, with a NUL before it.

        Raises:
            OSError: ENAMETOOLONG when an address has no room for it.
        """
        raw = os.fsencode(name)
        if len(raw) > PATH_BYTES + raw.startswith(b"\0"):
            raise os_error(errno.ENAMETOOLONG)
        address = _FAMILY + raw + (b"" if raw.startswith(b"\0") else b"\0")
        call(libc.bind, self.fd, address, len(address))

    def getsockname(self) -> str | bytes:
        """The name, as the standard library gives it (getsockname(2)): text for a path, bytes for an abstract one."""
        raw = ctypes.create_string_buffer(2 + PATH_BYTES + 1)
        length = ctypes.c_uint32(len(raw))
        call(libc.getsockname, self.fd, raw, ctypes.byref(length))
        name = raw.raw[2 : length.value]
        return name if name.startswith(b"\0") else os.fsdecode(name.rstrip(b"\0"))
