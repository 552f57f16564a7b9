"""A file that a process keeps locked for as long as it lives (flock(2)): what it says, and who holds it."""

from __future__ import annotations

import errno
import fcntl
import stat
from pathlib import Path
from typing import Final

from prefork.system.guarded_path import reach
from prefork.system.natives import os

_MOST: Final = 64  # bytes of a pidfile that are looked at


def read(path: str) -> tuple[str, int]:
    """What a pidfile says, and a descriptor of it, which is the caller's to close.

    Raises:
        OSError: it can't be read, is no plain file, or others could have led us to it.
    """
    with reach(path) as spot:
        if spot.found is not None and not stat.S_ISREG(spot.found.st_mode):
            raise OSError(errno.EINVAL, "it is not a plain file")
        fd = spot.open(os.O_RDONLY)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, "it is not a plain file")
            spot.believe(found)
            return os.pread(fd, _MOST, 0).decode("ascii", "replace").strip(), fd
        except BaseException:
            os.close(fd)
            raise


def locked_by(fd: int, pid: int) -> bool:
    """Whether that process holds the lock on the file that is open here as ``fd``.

    Somebody must hold it, or it could be had. Who it is the kernel shows with each descriptor of a process (proc(5),
    fdinfo), and where we may not look at these, in the list of all locks; whose numbers of devices and inodes are not
    those of stat(2) on every file system (overlayfs, btrfs), so that there only the process counts.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        pass
    else:
        fcntl.flock(fd, fcntl.LOCK_UN)
        return False
    held = os.fstat(fd)
    try:
        return any(_holds(pid, number, held) for number in os.listdir(f"/proc/{pid}/fd"))
    except PermissionError:
        pass
    except OSError:
        return False
    try:
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return False
    return any(words[1:2] == ["FLOCK"] and words[4:5] == [str(pid)] for words in map(str.split, lines))


def _holds(pid: int, number: str, held: os.stat_result) -> bool:
    """Whether a descriptor of that process is the file, with a lock on it."""
    try:
        if not os.path.samestat(os.stat(f"/proc/{pid}/fd/{number}"), held):
            return False
        text = Path(f"/proc/{pid}/fdinfo/{number}").read_text(encoding="ascii")
    except FileNotFoundError:
        return False  # closed meanwhile
    return any(line.startswith("lock:") and " FLOCK " in line and " WRITE " in line for line in text.splitlines())
