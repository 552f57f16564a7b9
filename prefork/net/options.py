"""What a listener is opened with. Socket options are set once before it listens, and each connection inherits them.

So no connection pays for them: TCP_NODELAY and SO_KEEPALIVE of an accepted socket are those of its listener (tcp(7),
socket(7)). Options that belong to TCP are left out for AF_UNIX. SO_RCVTIMEO is not here and never will be: it wakes
idle workers, and an accepted socket inherits it.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final, TypedDict

from prefork.net.ipsocket import IPSocket
from prefork.net.kernelsocket import Socket
from prefork.net.reuseport.steering import Mode
from prefork.system.natives import socket
from prefork.system.record import Record

_log: Final = logging.getLogger("prefork")

_SOMAXCONN: Final = Path("/proc/sys/net/core/somaxconn")
_FAST_OPEN: Final = Path("/proc/sys/net/ipv4/tcp_fastopen")
_FAST_OPEN_SERVER: Final = 2  # the bit that lets listeners take part (ip-sysctl in the kernel's documentation)


class SocketOptions(Record, kw_only=True):
    """What a listener is set up with. The names are those of the settings.

    Args:
        v6only: Whether an IPv6 listener leaves IPv4 clients alone (ipv6(7), IPV6_V6ONLY).
        defer_accept: Seconds that a connection may wait for its first data before it is accepted (tcp(7),
            TCP_DEFER_ACCEPT; the kernel rounds them up to its own steps); 0 accepts at once.
        nodelay: Whether small writes go out at once (tcp(7), TCP_NODELAY).
        keepalive: Whether silent connections are probed (socket(7), SO_KEEPALIVE).
        fast_open: How many connections may bring data in their SYN before the handshake is done (tcp(7),
            TCP_FASTOPEN); 0 turns it off.
        mode: Permissions of a unix path, None for what the umask leaves.
        user: Owner of a unix path, by name or number; "" leaves it.
        group: Group of a unix path, by name or number; "" leaves it.
    """

    v6only: bool = False
    defer_accept: int = 0
    nodelay: bool = True
    keepalive: bool = False
    fast_open: int = 0
    mode: int | None = None
    user: str = ""
    group: str = ""


class ListenOptions(TypedDict, total=False):
    """What `Listener.open` takes beside an address."""

    backlog: int
    reuse_port: bool
    members: int
    mode: Mode
    options: SocketOptions
    listen: bool


def apply(sock: IPSocket, options: SocketOptions, *, reuse_port: bool = False) -> None:
    """Set a TCP socket up before it is bound.

    SO_REUSEADDR always: without it a restart fails for as long as old connections are in TIME_WAIT (socket(7)).

    Args:
        sock: A new socket of AF_INET or AF_INET6.
        options: What to set.
        reuse_port: Whether it joins a SO_REUSEPORT group.

    Raises:
        OSError: The kernel refused one of them.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse_port:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, options.v6only)
    if options.nodelay:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if options.keepalive:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if options.fast_open:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, options.fast_open)
    defer(sock, options.defer_accept)


def defer(sock: Socket, seconds: int) -> None:
    """Make connections without data wait up to ``seconds`` before they can be accepted; 0 for none."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, seconds)


def warn(backlog: int, options: SocketOptions, *, tcp: bool) -> None:
    """Log a warning for each option that this machine will quietly cut short.

    Args:
        backlog: The length of the accept queue that listen(2) is asked for, in connections.
        options: What the listener is set up with.
        tcp: Whether it is a TCP listener.
    """
    somaxconn = _sysctl(_SOMAXCONN)
    if somaxconn is not None and somaxconn < backlog:
        _log.warning(
            "backlog %d is cut to %d by the kernel; raise it with sysctl net.core.somaxconn=%d",
            backlog,
            somaxconn,
            backlog,
        )
    fast_open = _sysctl(_FAST_OPEN)
    if tcp and options.fast_open and fast_open is not None and not fast_open & _FAST_OPEN_SERVER:
        _log.warning(
            "fast_open has no effect on this machine; turn it on with sysctl net.ipv4.tcp_fastopen=%d",
            fast_open | _FAST_OPEN_SERVER,
        )


def _sysctl(path: Path) -> int | None:
    """A kernel parameter; None where it can't be read, as in a container that hides it."""
    try:
        return int(path.read_bytes())
    except (OSError, ValueError):
        return None
