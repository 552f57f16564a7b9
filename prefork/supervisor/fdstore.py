"""The service manager's descriptor store: listeners that outlive even a master that was killed.

A manager that offers the store (``FileDescriptorStoreMax=``, systemd.service(5)) says so in ``FDSTORE``. Each
listening socket is then given to it under a name (sd_notify(3), FDSTORE=1), and comes back with ``LISTEN_FDS`` when the
service is started again. Who waits in its queue meanwhile is served by the next master. Such a listener outlives us:
it is not ours to gate, to drain or to shut down.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from typing import Final

from prefork.config.address import Address
from prefork.errors import ListenError
from prefork.net.listener import Listener, Snapshot
from prefork.net.reuseport.steering import Mode
from prefork.system import systemd
from prefork.system.natives import os

log = logging.getLogger("prefork")

_NAME: Final = re.compile(r"prefork-([0-9a-f]{16})-(one|group)-([0-9]{1,5})")

Passed = Mapping[str, tuple[int, ...]]
"""Descriptors that the manager passed, by name."""


def split(passed: Passed) -> tuple[Passed, Passed]:
    """What was passed, in two: what earlier runs have stored, and the rest."""
    stored = {name: fds for name, fds in passed.items() if _NAME.fullmatch(name)}
    return stored, {name: fds for name, fds in passed.items() if name not in stored}


def records(
    addresses: Iterable[Address],
    stored: Passed,
    *,
    reuse_port: bool,
    mode: Mode,
    environ: Mapping[str, str] = os.environ,
) -> dict[str, Snapshot]:
    """What earlier runs have stored for these addresses, by the address.

    What is for none of them is closed, here and in the store: it would listen for nobody until the service is stopped.

    Raises:
        ListenError: the sockets were made with another ``reuse_port``.
    """
    found: dict[str, Snapshot] = {}
    left = dict(stored)
    for address in addresses:
        members: dict[int, int] = {}
        grouped = False
        for name in list(left):
            match = _NAME.fullmatch(name)
            if match is not None and match[1] == _digest(address):
                members[int(match[3])], *copies = left.pop(name)
                for fd in copies:
                    os.close(fd)
                grouped = match[2] == "group"
        if not members:
            continue
        if grouped != (reuse_port and address.kind in {"inet", "inet6"}):
            raise ListenError(
                f"reuse_port: {reuse_port} is not what the stored sockets of {address} were made with; "
                "stop the service once, so that the store is emptied"
            )
        found[str(address)] = Snapshot(
            address=str(address),
            members=tuple(sorted(members.items())),
            order=None,
            owned=False,
            reuse_port=grouped,
            mode=mode,
            file_id=None,
        )
        log.info("%s: going on with the socket that the service manager has kept", address)
    where = systemd.notify_address(environ)
    for name, fds in left.items():
        for fd in fds:
            os.close(fd)
        systemd.notify(where, "FDSTOREREMOVE=1", f"FDNAME={name}")
    return found


def keep(listeners: Iterable[Listener], environ: Mapping[str, str] = os.environ) -> None:
    """Give the manager a copy of each listening socket that is ours, if it offers to keep it."""
    where = systemd.notify_address(environ)
    room = environ.get("FDSTORE", "")
    if where is None or not (room.isascii() and room.isdecimal() and room.strip("0")):
        return
    for listener in listeners:
        if not listener.owned:
            continue
        kind = "group" if listener.reuse_port else "one"
        kept = True
        for slot in listener.slots:
            name = f"prefork-{_digest(listener.address)}-{kind}-{slot}"
            fd = listener.socket_for(slot).fileno()
            kept &= systemd.notify(where, "FDSTORE=1", f"FDNAME={name}", descriptors=[fd])
        if kept:
            listener.owned = False


def _digest(address: Address) -> str:
    import hashlib

    return hashlib.sha256(str(address).encode()).hexdigest()[:16]
