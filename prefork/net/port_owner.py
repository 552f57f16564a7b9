"""Who holds an address that we wanted: for the error message, as far as we may see it.

psutil reads /proc, where a user sees the sockets of all but the descriptors of his own processes only: an unknown
holder is normal, and makes the message shorter, never wrong. It is imported when there is such a message to be made.
"""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path
from typing import Any, Final, NamedTuple

from prefork.config.address import Address
from prefork.errors import InUseError, OrphansError
from prefork.net.ipsocket import IPSocket
from prefork.net.queue import Diag
from prefork.system.natives import os, socket

SCOREBOARD = "prefork-scoreboard"
"""The name that a server's shared memory has in /proc/PID/maps (memfd_create(2))."""

_LISTENING: Final = "LISTEN"
"""psutil's word for it."""


class PortOwner(NamedTuple):
    """Who holds an address."""

    text: str
    """" by NAME (pid PID)", "" when it can't be seen."""
    orphans: bool
    """Whether these are workers whose master is gone, and nobody else."""
    own: bool = False
    """Whether it is this process."""


UNKNOWN: Final = PortOwner("", orphans=False)
"""Nobody has looked."""


def in_use(address: Address, by: PortOwner, what: str, *, shared: bool = False) -> InUseError:
    """The error for an address that somebody holds."""
    taken = f"the {'name' if what == 'name' else 'address'} is in use{by.text}"
    if by.orphans:
        return OrphansError(
            f"bind: {address}: {taken}, a worker whose master was killed",
            f"kill it or choose another {what}",
        )
    if shared:
        remedy = "which must share it (reuse_port) and run as the same user"
        return InUseError(f"bind: {address}: {taken}, {remedy}")
    if by.own:
        return InUseError(f"bind: {address}: {taken}, which is this process; choose another {what}")
    return InUseError(f"bind: {address}: {taken}; stop it or choose another {what}")


def of_port(host: str, port: int) -> PortOwner:
    """Who listens on a TCP port, at ``host`` or at every address."""
    pids = set()
    for connection in _connections("tcp"):
        if connection.status == _LISTENING and connection.laddr.port == port and connection.pid:
            everywhere = {"0.0.0.0", "::"}
            if connection.laddr.ip == host or connection.laddr.ip in everywhere or host in everywhere:
                pids.add(connection.pid)
    return _owner(pids)


def check_group(address: Address, sock: IPSocket) -> None:
    """Look for orphans in the SO_REUSEPORT group that a socket is about to join.

    It could be bound beside them, but what the kernel gives to their members is reset when they end.

    Args:
        address: What the user asked for.
        sock: Bound there, and not listening yet.

    Raises:
        OrphansError: Workers whose master was killed listen there.
    """
    try:
        with contextlib.closing(Diag()) as diag:
            members = diag.group(sock)
    except OSError:
        return
    if not members:
        return  # nearly always; the look at every process is for the rest
    name = sock.getsockname()
    pids = {
        one.pid
        for one in _connections("tcp")
        if one.status == _LISTENING and one.pid and (one.laddr.ip, one.laddr.port) == (name.host, name.port)
    }
    orphans = {pid for pid in pids if _orphans({pid})}
    if orphans:
        raise in_use(address, PortOwner(_eldest(orphans), True), "port")


def of_unix(name: str) -> PortOwner:
    """Who holds a unix socket of this name ("@name" when it is abstract).

    A path's socket keeps the name under which it was made: `prefork.net.unixpath`.
    """
    base = name.rpartition("/")[2]
    pids = {
        connection.pid
        for connection in _connections("unix")
        if connection.pid
        and (
            connection.laddr in {name, f"{name}.new"}
            or (connection.laddr.startswith("/proc/self/fd/") and connection.laddr.endswith(f"/{base}.new"))
        )
    }
    return _owner(pids)


def of_peer(probe: socket.socket, path: str) -> PortOwner:
    """Who listens at the other end of a connected unix socket (unix(7), SO_PEERCRED), or holds what he has left."""
    credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid: int = struct.unpack("=iII", credentials)[0]
    text = _eldest({pid})
    return PortOwner(text, False, pid == os.getpid()) if text else of_unix(path)


def _owner(pids: set[int]) -> PortOwner:
    own = os.getpid() in pids
    return PortOwner(_eldest(pids), not own and _orphans(pids), own)


def _connections(kind: str) -> list[Any]:
    try:
        import psutil
    except OSError:
        return []  # there is no descriptor for it
    try:
        return psutil.net_connections(kind)
    except (psutil.Error, OSError, RuntimeError):
        return []  # the message goes out without a name


def _orphans(pids: set[int]) -> bool:
    """Whether all of them are workers of a master that is gone."""
    return bool(pids) and all(map(_is_orphan, pids))


def _is_orphan(pid: int) -> bool:
    """Whether a process has a scoreboard and neither a parent nor a child that has one.

    A master has none such for its parent either: it is told by its workers. Of those who share a socket psutil names
    one, the last of its list, which is the master where pids have begun anew since its start.
    """
    return _is_worker(pid) and not any(map(_is_worker, [_parent(pid), *_children(pid)]))


def _is_worker(pid: int) -> bool:
    """Whether a process has a scoreboard in its memory, as workers and masters do."""
    try:
        return f"/memfd:{SCOREBOARD} " in Path(f"/proc/{pid}/maps").read_text("utf-8", "replace")
    except OSError:
        return False  # it is gone, or none of our affair


def _parent(pid: int) -> int:
    import psutil

    try:
        return psutil.Process(pid).ppid()
    except (psutil.Error, OSError):
        return 0


def _children(pid: int) -> list[int]:
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except (psutil.Error, OSError):
        return []


def _eldest(pids: set[int]) -> str:
    """Of processes that share one socket the first born is the one to name: the master of the others."""
    import psutil

    born = []
    for pid in pids:
        try:
            process = psutil.Process(pid)
            born.append((process.create_time(), pid, process.name()))
        except (psutil.Error, ValueError, OSError):
            continue  # it ended, or is of another pid namespace
    return f" by {min(born)[2]} (pid {min(born)[1]})" if born else ""
