"""What a server needs of the system at its start, and the one line when that is refused.

A sandbox that forbids a system call, a limit, a lack of memory: each ends a start, and none is a defect whose traceback
anybody could use.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from prefork.errors import RefusedError
from prefork.system.natives import os

_LIMITS = {errno.EMFILE, errno.ENFILE}
_FORBIDDEN = {errno.EPERM, errno.EACCES, errno.ENOSYS}
_EXHAUSTED = {errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC, errno.EAGAIN}


@contextlib.contextmanager
def needed(what: str, calls: str = "") -> Iterator[None]:
    """Any process. Tell in one line that the system refuses something without which there is no server.

    Args:
        what: what is made in the ``with`` block.
        calls: the system calls that it takes, as a reader of a sandbox's rules knows them.

    Raises:
        RefusedError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise RefusedError(refused(what, calls, error)) from error


def refused(what: str, calls: str, error: OSError) -> str:
    """That line. Pure."""
    said = os.strerror(error.errno) if error.errno else str(error)
    if error.filename is not None:
        said = f"{said}: {error.filename}"
    if error.errno in _LIMITS:
        return f"there are no descriptors to begin with: {said}; raise the limit (ulimit -n, LimitNOFILE=; fs.file-max)"
    through = f" ({calls})" if calls else ""
    if error.errno in _FORBIDDEN:
        remedy = "allow it where it is forbidden (seccomp, SystemCallFilter=, a container's profile)"
    elif error.errno in _EXHAUSTED:
        remedy = "free memory, or raise what limits it (MemoryMax=, ulimit -v, fs.epoll.max_user_watches)"
    else:
        remedy = "the system is at fault, not the settings"
    return f"the system refuses {what}{through}: {said}; {remedy}"
