"""InetAddress: an IPv4 or IPv6 address as the kernel holds it, read as text when somebody asks."""

from __future__ import annotations

import ctypes
import errno
import struct
from typing import Final

from prefork.system.natives import socket
from prefork.system.peer import format_peer

_IN: Final = struct.Struct("=H2s4s")  # sockaddr_in (ip(7)): family, port, address
_IN6: Final = struct.Struct("=H2sI16sI")  # sockaddr_in6 (ipv6(7)): family, port, flow information, address, zone
_SIZE: Final = {socket.AF_INET: 16, socket.AF_INET6: 28}
ROOM: Final = 28
"""Bytes that the kernel may write: a sockaddr_in6. It truncates what is longer (accept(2))."""


class InetAddress:
    """An IPv4 or IPv6 address and a port, which the kernel fills in where it is passed as ``remote_address``.

    One can be used again and again: each accept overwrites it. Equal when all parts are; not hashable, because it
    changes.

    Args:
        host: An address in numbers; one with a colon is IPv6, and may carry a zone (``fe80::1%eth0``). "" makes an
            empty one, of family AF_UNSPEC, to be filled in. Names are resolved by ``socket.getaddrinfo``, not here.
        port: In host order, 0 to 65535.
        flowinfo: IPv6 flow information (ipv6(7)).
        scope_id: IPv6 zone, by number.

    Attributes:
        raw: The bytes, for a system call to read or write.
        length: How many of them count, for a system call to read or write.
        length_pointer: The pointer to ``length``; made once, because ctypes takes its time for it.

    Raises:
        ValueError: ``host`` is no address in numbers, or a number is out of its range.
        OSError: There is no interface of the zone's name (ENODEV).
    """

    __slots__ = ("length", "length_pointer", "raw")
    __hash__ = None  # type: ignore[assignment]  # the data model's way to say that it is not hashable

    def __init__(self, host: str = "", port: int = 0, flowinfo: int = 0, scope_id: int = 0) -> None:
        self.raw = ctypes.create_string_buffer(ROOM)
        self.length = ctypes.c_uint32(ROOM)
        self.length_pointer = ctypes.byref(self.length)
        if host:
            self._write(host, port, flowinfo, scope_id)

    @property
    def family(self) -> int:
        """AF_INET, AF_INET6, AF_UNSPEC while empty; another one when a peer of that family was accepted."""
        number: int = struct.unpack_from("=H", self.raw)[0]
        return number

    @property
    def host(self) -> str:
        """The address in numbers, without a zone; "" for a family that is not IP."""
        if self.family == socket.AF_INET:
            return socket.inet_ntop(socket.AF_INET, _IN.unpack_from(self.raw)[2])
        if self.family == socket.AF_INET6:
            return socket.inet_ntop(socket.AF_INET6, _IN6.unpack_from(self.raw)[3])
        return ""

    @property
    def packed(self) -> bytes:
        """The address in network order: 4 bytes or 16, none for a family that is not IP."""
        if self.family == socket.AF_INET:
            return bytes(_IN.unpack_from(self.raw)[2])
        return bytes(_IN6.unpack_from(self.raw)[3]) if self.family == socket.AF_INET6 else b""

    @property
    def port(self) -> int:
        """The port, in host order; 0 for a family that is not IP."""
        return int.from_bytes(_IN.unpack_from(self.raw)[1], "big") if self.family in _SIZE else 0

    @property
    def flowinfo(self) -> int:
        """IPv6 flow information; 0 for any other family."""
        return socket.ntohl(_IN6.unpack_from(self.raw)[2]) if self.family == socket.AF_INET6 else 0

    @property
    def scope_id(self) -> int:
        """IPv6 zone, by number; 0 for any other family."""
        zone: int = _IN6.unpack_from(self.raw)[4] if self.family == socket.AF_INET6 else 0
        return zone

    def as_tuple(self) -> tuple[str, int] | tuple[str, int, int, int]:
        """The address in the form that the standard library's socket functions take and give."""
        if self.family == socket.AF_INET6:
            return self.host, self.port, self.flowinfo, self.scope_id
        return self.host, self.port

    def _write(self, host: str, port: int, flowinfo: int, scope_id: int) -> None:
        number, _, zone = host.partition("%")
        family = socket.AF_INET6 if ":" in number else socket.AF_INET
        try:
            packed = socket.inet_pton(family, number)
        except OSError:
            raise ValueError(f"{host!r} is no address in numbers") from None
        if not 0 <= port <= 0xFFFF:
            raise ValueError(f"port {port} is not in 0 to 65535")
        if zone:
            scope_id = int(zone) if zone.isdecimal() else _index_of(zone)
        if not (0 <= flowinfo <= 0xFFFFF and 0 <= scope_id <= 0xFFFFFFFF):
            raise ValueError(f"flow information {flowinfo} is not in 20 bits, or zone {scope_id} is not in 32")
        network_port = port.to_bytes(2, "big")
        if family == socket.AF_INET:
            _IN.pack_into(self.raw, 0, family, network_port, packed)
        else:
            _IN6.pack_into(self.raw, 0, family, network_port, socket.htonl(flowinfo), packed, scope_id)
        self.length.value = _SIZE[family]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, InetAddress):
            return NotImplemented
        return self.family == other.family and self.as_tuple() == other.as_tuple()

    def __str__(self) -> str:
        return format_peer(self.as_tuple()) if self.family in _SIZE else ""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {str(self) or 'empty'}>"


def _index_of(name: str) -> int:
    """The number of a network interface. That there is none, each release of Python says in other words."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        raise OSError(errno.ENODEV, f"there is no network interface {name!r}") from None
