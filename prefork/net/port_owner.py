"""Who holds an address that we wanted: for the error message, as far as we may see it.

A user sees the sockets of all but the descriptors of his own processes only (proc(5)): an unknown holder is normal, and
makes the message shorter, never wrong. Which sockets listen on a port the kernel is asked for: in the list of all
connections, which psutil reads, a busy machine has a hundred thousand, and each takes 20 us. psutil is imported when
there is such a message to be made.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from prefork.config.address import Address
from prefork.errors import InUseError, OrphansError
from prefork.net.ipsocket import IPSocket
from prefork.net.queue import Diag
from prefork.system.natives import os, socket

if TYPE_CHECKING:
    import psutil

T = TypeVar("T")

SCOREBOARD = "prefork-scoreboard"
"""The name that a server's shared memory has in /proc/PID/maps (memfd_create(2))."""


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
    everywhere = {"0.0.0.0", "::"}
    try:
        with contextlib.closing(Diag()) as diag:
            listening = diag.listening(port)
        pids = _holders({inode for at, inode in listening if host in everywhere or at in {host, *everywhere}})
    except OSError:
        return UNKNOWN
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
        pids = _holders(members)
    except OSError:
        return
    orphans = set(filter(_is_orphan, pids))
    if orphans:
        raise in_use(address, PortOwner(_eldest(orphans), True), "port")


def of_unix(name: str) -> PortOwner:
    """Who holds a unix socket of this name ("@name" when it is abstract).

    A path's socket keeps the name under which it was made: `prefork.net.unixpath`.
    """
    base = name.rpartition("/")[2]
    pids = {
        connection.pid
        for connection in _unix_sockets()
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


def _holders(inodes: Collection[int]) -> set[int]:
    """The processes that have one of these sockets open, as far as we may see.

    Raises:
        OSError: There is no descriptor to look with.
    """
    if not inodes:
        return set()  # nearly always; the look at every process is for the rest
    wanted = {f"socket:[{inode}]" for inode in inodes}
    return {int(pid) for pid in os.listdir("/proc") if pid.isdecimal() and not wanted.isdisjoint(_open_in(pid))}


def _open_in(pid: str) -> Iterator[str]:
    """What a process has open; nothing when it is gone, or none of our affair."""
    with contextlib.suppress(OSError):
        for number in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):  # it was closed meanwhile
                yield os.readlink(f"/proc/{pid}/fd/{number}")


def _unix_sockets() -> list[Any]:
    try:
        import psutil
    except OSError:
        return []  # there is no descriptor for it
    try:
        return psutil.net_connections("unix")
    except (psutil.Error, OSError, RuntimeError):
        return []  # the message goes out without a name


def _orphans(pids: set[int]) -> bool:
    """Whether all of them are workers of a master that is gone."""
    return bool(pids) and all(map(_is_orphan, pids))


def _is_orphan(pid: int) -> bool:
    """Whether a process has a scoreboard and neither a parent nor a child that has one.

    A master has none such for its parent either: it is told by its workers.
    """
    return _is_worker(pid) and not any(map(_is_worker, [_parent(pid), *_children(pid)]))


def _is_worker(pid: int) -> bool:
    """Whether a process has a scoreboard in its memory, as workers and masters do."""
    try:
        return f"/memfd:{SCOREBOARD} " in Path(f"/proc/{pid}/maps").read_text("utf-8", "replace")
    except OSError:
        return False  # it is gone, or none of our affair


def _parent(pid: int) -> int:
    return _of_process(pid, lambda process: process.ppid(), 0)


def _children(pid: int) -> list[int]:
    return _of_process(pid, lambda process: [child.pid for child in process.children()], [])


def _eldest(pids: set[int]) -> str:
    """Of processes that share one socket the first born is the one to name: the master of the others."""
    none: list[tuple[float, int, str]] = []
    born = [
        each
        for pid in pids
        for each in _of_process(pid, lambda process: [(process.create_time(), process.pid, process.name())], none)
    ]
    return f" by {min(born)[2]} (pid {min(born)[1]})" if born else ""


def _of_process(pid: int, ask: Callable[[psutil.Process], T], otherwise: T) -> T:
    """What psutil tells of a process, or ``otherwise``: it has ended, is in another pid namespace, or no file opens."""
    try:
        import psutil
    except OSError:
        return otherwise
    try:
        return ask(psutil.Process(pid))
    except (psutil.Error, ValueError, OSError):
        return otherwise
