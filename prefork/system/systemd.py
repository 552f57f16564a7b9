"""Words to the service manager, over the socket that it names (sd_notify(3)): a datagram is all it takes."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence

from prefork.system.natives import socket

log = logging.getLogger("prefork")


def address(environ: Mapping[str, str] = os.environ) -> str | None:
    """Where the service manager listens (NOTIFY_SOCKET); None when there is none to be told anything."""
    name = environ.get("NOTIFY_SOCKET", "")
    if name.startswith("@"):
        return "\0" + name[1:]
    return name if name.startswith("/") else None


def tell(where: str | None, *lines: str, descriptors: Sequence[int] = ()) -> bool:
    """Send one message; never blocks and never fails.

    Args:
        where: what :func:`address` gave.
        lines: "READY=1" and the like.
        descriptors: sent along (unix(7), SCM_RIGHTS).

    Returns:
        Whether it was sent.
    """
    if where is None:
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.connect(where)
            socket.send_fds(sock, ["\n".join(lines).encode()], list(descriptors))
    except OSError as error:
        log.warning("can't tell the service manager %s: %s", lines[0], error)
        return False
    return True
