"""Which member of a SO_REUSEPORT group has which index, found by knocking. How that works says the package."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Mapping
from typing import Final

from prefork.net.ipsocket import IPSocket
from prefork.net.kernelsocket import Socket
from prefork.net.reuseport import steering
from prefork.net.reuseport.tarpit import reach
from prefork.system.natives import socket, time

_SO_MEMINFO: Final = 55  # asm-generic/socket.h
_MEMINFO: Final = struct.Struct("=9I")  # linux/sock_diag.h: the last is SK_MEMINFO_DROPS
_TCP_MD5SIG: Final = 14  # linux/tcp.h
_SIGNATURE: Final = struct.Struct("=128sBBHI80s")  # tcp_md5sig: address, flags, prefix, length, device, key
_ATTEMPTS: Final = 3
_SECONDS: Final = 0.005  # for a knock to be heard; over loopback it is heard before connect(2) returns, mostly


class OrderFinder:
    """Its descriptor is made here, so that it can be used at the descriptor limit.

    Args:
        family: AF_INET or AF_INET6.

    Raises:
        OSError: No descriptor is left.
    """

    def __init__(self, family: int) -> None:
        self._client = IPSocket(family)
        self._client.tcp_socket(nonblocking=True)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All that it holds."""
        return (self._client.fileno(),)

    def find(self, members: Mapping[int, Socket], count: int) -> list[int | None] | None:
        """The slots by their index. What was attached to the group is gone afterwards, and so is what this attached.

        Args:
            members: Our sockets, by slot.
            count: How many sockets listen in the group.

        Returns:
            For each index the slot that has it, None where it is another server's; or None if it can't be found out.
        """
        some = next(iter(members.values()))
        try:
            self._sign(some)
            for _ in range(_ATTEMPTS):
                found = [self._behind(index, members) for index in range(count)]
                if sorted(slot for slot in found if slot is not None) == sorted(members):
                    return found
        except OSError:
            pass  # the kernel knows no signatures, or refuses a program
        finally:
            steering.unsteer(some)
        return None

    def close(self) -> None:
        """Give back the descriptor. Idempotent."""
        self._client.close()

    def _sign(self, listener: Socket) -> None:
        """Sign what is sent to ``listener``."""
        family = self._client.family
        packed = reach(listener).packed
        name = struct.pack("=H2x", family) + (packed if family == socket.AF_INET else bytes(4) + packed)
        self._client.setsockopt(socket.IPPROTO_TCP, _TCP_MD5SIG, _SIGNATURE.pack(name, 0, 0, 1, 0, b"?"))

    def _behind(self, index: int, members: Mapping[int, Socket]) -> int | None:
        """The slot whose member has an index; None when nobody of ours has heard the knock."""
        some = next(iter(members.values()))
        steering.steer(some, [index], "random")
        before = {slot: _drops(sock) for slot, sock in members.items()}
        deadline = time.monotonic() + _SECONDS
        with contextlib.suppress(BlockingIOError):  # EINPROGRESS: the SYN is on its way
            self._client.connect(reach(some))
        heard: list[int] = []
        late = False
        while not heard and not late:
            late = time.monotonic() >= deadline  # read before the look: on a busy machine the first may come after it
            heard = [slot for slot, sock in members.items() if _drops(sock) != before[slot]]
        self._client.shutdown(socket.SHUT_RDWR)  # back to where it can connect again
        return heard[0] if len(heard) == 1 else None


def _drops(sock: Socket) -> int:
    """How many packets a socket has dropped (SO_MEMINFO)."""
    drops: int = _MEMINFO.unpack(sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))[-1]
    return drops
