"""The name of a socket as text, for the log and for people."""

from __future__ import annotations

from typing import Any

from prefork.errors import printable
from prefork.system.natives import os


def format_peer(address: Any) -> str:
    """The text of a socket's name as the kernel gave it (``accept``, ``getsockname``, ``getpeername``). Pure.

    Args:
        address: A tuple for IPv4 and IPv6, text or bytes for a unix socket, "" or None where there is no name.

    Returns:
        ``host:port``, ``[host]:port``, ``unix:/path``, ``unix:@name``, or ``unix`` for a socket without a name.
        Only printable characters: a peer chooses its own name, and that name goes to the log.
    """
    match address:
        case (str(host), int(port)):
            return f"{host}:{port}"
        case (str(host), int(port), int(), int(zone)):
            return f"[{host}%{zone}]:{port}" if zone else f"[{host}]:{port}"
        case None | "" | b"":
            return "unix"
        case str() | bytes():
            name = os.fsdecode(address)
            return printable("unix:@" + name[1:] if name.startswith("\0") else "unix:" + name)
    return printable(str(address))
