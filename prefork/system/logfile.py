"""A log file, opened for appending: by its name, in whatever folder, without waiting for anybody.

What a name may mean, and to whom, :mod:`prefork.system.guarded_path` judges. Here it is opened: a plain file is made if
there is none, and given to the workers' user; a FIFO without a reader is refused, for open(2) would wait for one; a
device, a terminal, a FIFO keep their owner and mode. ``/dev/stdout`` and its like are our own descriptors (proc(5)) and
are duplicated, so that they may be sockets as well, and are open for workers too.

MASTER for the log, WORKER for the access log and after a rotation.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import stat
from typing import Final

from prefork.system.guarded_path import Owner, Spot, reach
from prefork.system.natives import os

_MOST_LOOKS: Final = 16  # at a name that is another file each time
_APPEND: Final = os.O_WRONLY | os.O_APPEND
_MODE: Final = 0o644


def append(path: str, owner: Owner | None = None, *, waits: bool = False) -> int:
    """Open a log: made if it isn't there, to be appended to. The open never waits for a reader.

    Args:
        path: the log's name. A plain file, a FIFO, a terminal, ``/dev/null``, ``/dev/stdout``.
        owner: whom a plain file is given to, by root and if the name may be believed; None leaves it.
        waits: whether writes wait for whoever reads a FIFO, or fail (O_NONBLOCK).

    Returns:
        The descriptor.

    Raises:
        OSError: it can't be opened, or should not be; ``strerror`` says why.
    """
    for _ in range(_MOST_LOOKS):
        with reach(path) as spot:
            if spot.descriptor:
                return _again(spot)
            try:
                fd = _appending(spot, owner)
            except (FileExistsError, FileNotFoundError):
                continue  # it came or went between the look and the open
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise  # else it has become a link meanwhile
            else:
                os.set_blocking(fd, waits)
                return fd
    raise OSError(errno.ELOOP, "it is another file at each look")


def cut(data: bytes, written: int) -> bool:
    """Whether a write that a full disk cut short has left a line without its end, before whatever is written next.

    Args:
        data: whole lines.
        written: how many bytes of them write(2) took.
    """
    return 0 < written < len(data) and data[written - 1] != 0x0A


def check(path: str, owner: Owner | None = None) -> None:
    """Find out whether :func:`append` would open a log, and make nothing.

    What others read from - a FIFO, a terminal - is not opened: whoever reads it would see it come and go.

    Args:
        path: the log's name.
        owner: whom a plain file is to be given to.

    Raises:
        OSError: as :func:`append`.
    """
    with reach(path) as spot:
        if spot.descriptor:
            os.close(_again(spot))
        elif spot.found is None:
            spot.check_room()
        else:
            _check_kind(spot.found.st_mode)
            spot.believe(spot.found, owner)
            if stat.S_ISREG(spot.found.st_mode):
                os.close(spot.open(_APPEND))
            elif not os.access(spot.name, os.W_OK, dir_fd=spot.folder, effective_ids=True):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _appending(spot: Spot, owner: Owner | None) -> int:
    """Open what is there, or make it."""
    if spot.found is None:
        fd = spot.open(_APPEND | os.O_CREAT | os.O_EXCL, _MODE)
        _give(fd, owner)
        return fd
    _check_kind(spot.found.st_mode)
    # Not anything that isn't to be believed: a device may act on being opened.
    spot.believe(spot.found, owner)
    try:
        fd = spot.open(_APPEND)
    except OSError as error:
        if error.errno == errno.ENXIO and stat.S_ISFIFO(spot.found.st_mode):
            raise OSError(errno.ENXIO, "it is a FIFO that nobody reads") from None
        raise
    try:
        found = os.fstat(fd)
        _check_kind(found.st_mode)
        spot.believe(found, owner)
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            _give(fd, owner)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _check_kind(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if stat.S_ISSOCK(mode) or stat.S_ISBLK(mode):
        raise OSError(errno.ENXIO, f"it is a {'socket' if stat.S_ISSOCK(mode) else 'disk'}")


def _give(fd: int, owner: Owner | None) -> None:
    if owner is not None and os.geteuid() == 0:
        # Not every file system knows owners, and not every root may give (CAP_CHOWN): then workers go on with the file
        # that they have, after a rotation too.
        with contextlib.suppress(OSError):
            os.fchown(fd, *owner)


def _again(spot: Spot) -> int:
    """One of our own descriptors once more, whatever it is; another process's file opened anew."""
    if not os.path.samestat(os.fstat(spot.folder), os.stat("/proc/self/fd")):
        return os.open(spot.name, _APPEND | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, dir_fd=spot.folder)
    fd = os.dup(int(spot.name))
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        os.close(fd)
        raise OSError(errno.EBADF, "it is not open for writing")
    return fd
