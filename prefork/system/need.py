"""What a server needs of the system at its start, and the one line when that is refused.

A sandbox that forbids a system call, a limit, a lack of memory: each ends a start, and none is a defect whose traceback
anybody could use.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import Final

from prefork.errors import RefusedError
from prefork.system.natives import os

WRITABLE: Final = "name a file in a folder that this user may write to"
READABLE: Final = "name a file that this user may read"

_LIMITS = {errno.EMFILE, errno.ENFILE}
_FULL = {errno.ENOSPC, errno.EDQUOT}
_RAISE = "raise the limit (ulimit -n, LimitNOFILE=; fs.file-max)"
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


def told(error: OSError, otherwise: str) -> str:
    """Why something that a setting asks for has failed, and what to do. Pure.

    Where descriptors or room on a disk have run out, another value of the setting would fare no better.

    Args:
        error: What the system said.
        otherwise: What to do where it is the setting's value that does not do: `WRITABLE`, `READABLE` ...
    """
    return f"{error.strerror or error}; {remedy(error, otherwise)}"


def remedy(error: OSError, otherwise: str) -> str:
    """The second half of that alone. Pure."""
    return _RAISE if error.errno in _LIMITS else "make room there" if error.errno in _FULL else otherwise


def refused(what: str, calls: str, error: OSError) -> str:
    """That line. Pure."""
    said = os.strerror(error.errno) if error.errno else str(error)
    if error.filename is not None:
        said = f"{said}: {error.filename}"
    if error.errno in _LIMITS:
        return f"there are no descriptors to begin with: {said}; {_RAISE}"
    through = f" ({calls})" if calls else ""
    if error.errno in _FORBIDDEN:
        remedy = "allow it where it is forbidden (seccomp, SystemCallFilter=, a container's profile)"
    elif error.errno == errno.EFBIG:
        remedy = "raise the limit of a file's size, which is one of shared memory, too (ulimit -f, LimitFSIZE=)"
    elif error.errno in _EXHAUSTED:
        remedy = "free memory, or raise what limits it (MemoryMax=, ulimit -v, fs.epoll.max_user_watches)"
    else:
        remedy = "the system is at fault, not the settings"
    return f"the system refuses {what}{through}: {said}; {remedy}"
