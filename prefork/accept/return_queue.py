"""The return queue: connections on their way from one worker to another.

One AF_UNIX SOCK_SEQPACKET pair, made by the master and inherited by all workers: whoever can't keep a connection puts
its descriptor in (SCM_RIGHTS, unix(7)), whoever has nothing in hand takes it. The kernel holds what is in it, so it
outlives whoever has put it there, and an upgrade.

A message is a header for each connection in it, and behind them what their handlers want to be told. It passes between
workers of different releases, so it begins with the number of its form.
"""

from __future__ import annotations

import array
import errno
import struct
from collections.abc import Iterator, Sequence
from typing import Final

from prefork.accept.parked_connections import ParkedConnection
from prefork.net.proxy_protocol import read_header
from prefork.system.natives import os, socket

FORM: Final = 1
PROXIED_FORM: Final = 2
"""The form of a message in which there are connections that a proxy has spoken of."""

AT_ONCE: Final = 16
"""Connections in one message: whoever takes it has all of them, and his siblings are to have some, too."""

_HEAD: Final = struct.Struct("<HH")
_ONE: Final = struct.Struct("<IIdB")  # requests, bytes of state, parked since, whether it is ready
_PROXIED: Final = struct.Struct("<IIdBI")  # and bytes of the proxy's header, which come before those of the state
_STATES: Final = 1 << 16  # bytes in one message
_BYTES: Final = 1 << 18
_READY: Final = 1
_FULL: Final = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS})
_INT: Final = struct.calcsize("i")


class ReturnQueue:
    """Both ends. Made by the MASTER; WORKERs use it.

    Attributes:
        inward: where connections are put in.
        outward: where they are taken out; both don't block.
    """

    def __init__(self, ends: tuple[int, int] | None = None) -> None:
        """Make one, or take over the ends of one that an earlier image of this process made.

        Raises:
            OSError: No descriptors.
        """
        if ends is None:
            self.inward, self.outward = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self.inward.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BYTES << 4)  # as much as the kernel gives
        else:
            self.inward, self.outward = (socket.socket(fileno=fd) for fd in ends)
        self.inward.setblocking(False)
        self.outward.setblocking(False)

    @property
    def ends(self) -> tuple[int, int]:
        """Their descriptors."""
        return self.inward.fileno(), self.outward.fileno()

    def put(self, some: Sequence[ParkedConnection]) -> int:
        """Put connections in, in one message; they stay open here.

        Args:
            some: Which. Those that fit into the message go with it.

        Returns:
            How many of them; 0 when there is no room now.

        Raises:
            OSError: The queue is of no use.
        """
        some = list(_fitting(some[:AT_ONCE]))
        message = _written(some)
        rights = array.array("i", [one.fd for one in some])
        try:
            self.inward.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        except OSError as error:
            if error.errno in _FULL:
                return 0
            raise
        return len(some)

    def take(self) -> list[ParkedConnection] | None:
        """Take the connections of one message; None when there is none."""
        try:
            data, controls, _, _ = self.outward.recvmsg(
                _BYTES, socket.CMSG_SPACE(AT_ONCE * _INT), socket.MSG_CMSG_CLOEXEC
            )
        except OSError:
            return None
        rights = array.array("i")
        for level, kind, bytes_ in controls:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                rights.frombytes(bytes_[: len(bytes_) - len(bytes_) % _INT])
        return list(_read(data, list(rights)))

    def close(self) -> None:
        """Close both ends. Idempotent."""
        self.inward.close()
        self.outward.close()


def _fitting(some: Sequence[ParkedConnection]) -> Iterator[ParkedConnection]:
    """As many of them as one message carries; one at the least."""
    left = _STATES
    for number, one in enumerate(some):
        left -= len(one.state) + (0 if one.proxy is None else len(one.proxy.raw))
        if number and left < 0:
            return
        yield one


def _written(some: Sequence[ParkedConnection]) -> bytes:
    """The message about some connections; in a form that older releases read where that has room for all of it."""
    if all(one.proxy is None for one in some):
        heads = b"".join(_ONE.pack(one.requests, len(one.state), one.since, one.ready and _READY) for one in some)
        return _HEAD.pack(FORM, len(some)) + heads + b"".join(one.state for one in some)
    pieces = [_HEAD.pack(PROXIED_FORM, len(some))]
    behind = []
    for one in some:
        raw = b"" if one.proxy is None else one.proxy.raw
        pieces.append(_PROXIED.pack(one.requests, len(one.state), one.since, one.ready and _READY, len(raw)))
        behind += [raw, one.state]
    return b"".join(pieces + behind)


def _read(data: bytes, rights: list[int]) -> Iterator[ParkedConnection]:
    count, head = 0, _ONE
    if len(data) >= _HEAD.size:
        form, count = _HEAD.unpack_from(data)
        head = _PROXIED if form == PROXIED_FORM else _ONE
        if form not in {FORM, PROXIED_FORM} or len(data) < _HEAD.size + count * head.size:
            count = 0
    at = _HEAD.size + count * head.size
    for number, fd in enumerate(rights):
        try:
            connection = socket.socket(fileno=fd)
        except OSError:  # no socket
            os.close(fd)
            continue
        try:
            connection.setblocking(True)
            address = connection.getpeername()
        except OSError:  # it is gone
            connection.close()
            continue
        if number >= count:
            connection.close()
            continue
        requests, length, since, flags, *told = head.unpack_from(data, _HEAD.size + number * head.size)
        proxy = None
        for said in filter(None, told):
            proxy = read_header(data[at : at + said])
            assert proxy is not None  # it was whole when it was put in
            address = address if proxy.source is None else proxy.source
            at += said
        one = ParkedConnection(connection, address, requests, data[at : at + length])
        one.proxy = proxy
        at += length
        one.since, one.ready = since, bool(flags & _READY)
        yield one
