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
from itertools import zip_longest
from typing import Final, NamedTuple

from prefork.accept.parked_connections import ParkedConnection
from prefork.net.proxy_protocol import ProxyProtocolError, read_header
from prefork.system.natives import os, socket

FORM: Final = 1
PROXIED_FORM: Final = 2
"""The form of a message in which there are connections that a proxy has spoken of."""

AT_ONCE: Final = 16
"""Connections in one message: whoever takes it has all of them, and his siblings are to have some, too."""

FULL: Final = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS})
"""What a send of descriptors fails with that will have room later."""

_HEAD: Final = struct.Struct("<HH")
_ONE: Final = struct.Struct("<IIdB")  # requests, bytes of state, parked since, whether it is ready
_PROXIED: Final = struct.Struct("<IIdBI")  # and bytes of the proxy's header, which come before those of the state
_STATES: Final = 1 << 16  # bytes in one message
_BYTES: Final = 1 << 18
_READY: Final = 1
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
            if error.errno in FULL:
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


class _Said(NamedTuple):
    """What a message says of one connection; see `ParkedConnection`."""

    requests: int
    since: float
    ready: bool
    proxy: bytes
    state: bytes


def _said(data: bytes) -> list[_Said]:
    """What a message says, of one connection after the other; nothing where it is of no form that is known here."""
    if len(data) < _HEAD.size:
        return []
    form, count = _HEAD.unpack_from(data)
    head = {FORM: _ONE, PROXIED_FORM: _PROXIED}.get(form)
    at = _HEAD.size + (0 if head is None else count * head.size)
    if head is None or len(data) < at:
        return []
    found = []
    for requests, length, since, flags, *proxied in head.iter_unpack(data[_HEAD.size : at]):
        begin = at + sum(proxied)
        end = begin + length
        found.append(_Said(requests, since, bool(flags & _READY), data[at:begin], data[begin:end]))
        at = end
    return found


def _read(data: bytes, rights: list[int]) -> Iterator[ParkedConnection]:
    """The connections of a message. Each has its place in it, also those that have ended on their way."""
    for fd, said in zip_longest(rights, _said(data)[: len(rights)]):
        one = _connection(fd, said)
        if one is not None:
            yield one


def _connection(fd: int, said: _Said | None) -> ParkedConnection | None:
    """One of them; None when it is closed, since it has ended, or nobody says what it is."""
    try:
        connection = socket.socket(fileno=fd)
    except OSError:  # no socket
        os.close(fd)
        return None
    try:
        connection.setblocking(True)
        address = connection.getpeername()
        if said is None:
            raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG))
        one = ParkedConnection(connection, address, said.requests, said.state)
        one.since, one.ready = said.since, said.ready
        if said.proxy:
            one.proxy = read_header(said.proxy)
            if one.proxy is not None and one.proxy.source is not None:
                one.address = one.proxy.source
    except (OSError, ProxyProtocolError):  # it is gone, or what is said of it can't be true
        connection.close()
        return None
    return one
