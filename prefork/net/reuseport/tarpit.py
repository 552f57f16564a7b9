"""A tarpit: the member of a SO_REUSEPORT group that answers nobody. Why, and how, says the package."""

from __future__ import annotations

import contextlib
from typing import Final

from prefork.net.inetaddress import InetAddress
from prefork.net.ipsocket import IPSocket, local_address
from prefork.net.kernelsocket import KernelSocket, Selectable, Socket
from prefork.system.natives import os, socket

_IP_MINTTL: Final = 21  # linux/in.h, linux/in6.h; the standard library names neither
_IPV6_MINHOPCOUNT: Final = 73
_MOST: Final = 255
_LOOPBACK: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class Tarpit:
    """Its descriptors are made here, so that it can be used at the descriptor limit.

    Args:
        family: AF_INET or AF_INET6.

    Raises:
        OSError: No descriptor is left.
    """

    def __init__(self, family: int) -> None:
        self._sock, self._filler = IPSocket(family), IPSocket(family)
        try:
            self._sock.tcp_socket()
            self._filler.tcp_socket(nonblocking=True)
        except OSError:
            self._sock.close()
            raise
        self._listener: Socket | None = None
        self._was_shared = False

    @property
    def inode(self) -> int:
        """By which it is known among the sockets that listen."""
        return os.fstat(self._sock.fileno()).st_ino

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All that it holds."""
        return self._sock.fileno(), self._filler.fileno()

    def join(self, listener: Socket) -> None:
        """Begin to listen in the group of ``listener``, as its last member, and make it a group if it is none.

        Raises:
            OSError: The address can't be shared: somebody changed user since it was bound.
        """
        sock = self._sock
        self._listener = listener
        self._was_shared = bool(listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if sock.family == socket.AF_INET6:
            v6only = listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
        bar(sock)
        sock.bind(local_address(listener))
        sock.listen(0)

    def fill(self) -> None:
        """Take the one place in its queue, once SYNs are steered to it. Without success the lowest TTL has to do."""
        filler = self._filler
        with contextlib.suppress(OSError):
            filler.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, _MOST)
            if filler.family == socket.AF_INET6:
                filler.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, _MOST)
            filler.connect(reach(self._sock))

    def leave(self) -> None:
        """Leave the group, where nobody may be steered to it any more, and close."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):  # ENOTCONN: it never came to listen
                self._sock.shutdown(socket.SHUT_RDWR)  # at once, whoever else holds the descriptor
            if not self._was_shared:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
        self.close()

    def close(self) -> None:
        """Give back the descriptors. Idempotent."""
        self._sock.close()
        self._filler.close()


def reach(listener: Selectable) -> InetAddress:
    """An address at which this machine reaches a listener, which may be on every address."""
    address = local_address(listener)
    loopback = _LOOPBACK.get(address.host)
    return address if loopback is None else InetAddress(loopback, address.port)


def bar(sock: KernelSocket) -> None:
    """Drop what comes to a socket, whatever it is. What it accepts inherits that: not for listeners in use."""
    sock.setsockopt(socket.IPPROTO_IP, _IP_MINTTL, _MOST)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MINHOPCOUNT, _MOST)
