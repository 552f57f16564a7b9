"""Who holds an address that we wanted: for the error message, as far as we may see it.

psutil reads /proc, where a user sees the sockets of all but the descriptors of his own processes only: an unknown
holder is normal, and makes the message shorter, never wrong.
"""

from __future__ import annotations

import socket
import struct
from typing import Any

import psutil


def of_port(host: str, port: int) -> str:
    """Who listens on a TCP port, at ``host`` or at every address: " by NAME (pid PID)", "" when it can't be seen."""
    pids = set()
    for connection in _connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
            everywhere = {"0.0.0.0", "::"}
            if connection.laddr.ip == host or connection.laddr.ip in everywhere or host in everywhere:
                pids.add(connection.pid)
    return _eldest(pids)


def of_unix(name: str) -> str:
    """Who holds a unix socket of this name ("@name" when it is abstract), in the same words."""
    return _eldest({c.pid for c in _connections("unix") if c.pid and c.laddr == name})


def of_peer(probe: socket.socket) -> str:
    """Who listens at the other end of a connected unix socket (unix(7), SO_PEERCRED), in the same words."""
    credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return _eldest({struct.unpack("=iII", credentials)[0]})


def _connections(kind: str) -> list[Any]:
    try:
        return psutil.net_connections(kind)
    except (psutil.Error, OSError, RuntimeError):
        return []  # the message goes out without a name


def _eldest(pids: set[int]) -> str:
    """Of processes that share one socket the first born is the one to name: the master of the others."""
    born = []
    for pid in pids:
        try:
            process = psutil.Process(pid)
            born.append((process.create_time(), pid, process.name()))
        except (psutil.Error, ValueError, OSError):
            continue  # it ended, or is of another pid namespace
    return f" by {min(born)[2]} (pid {min(born)[1]})" if born else ""
