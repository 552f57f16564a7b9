"""What stands in a file that a setting names: read by its name, in whatever folder, and never waited for without end.

The master may be root, and the folder another's, who could lead it to a file of root's that its workers have then. So a
name is walked as that of a log is (:mod:`prefork.system.guarded_path`), and root reads no second name of a file there.
And whoever may put a FIFO there could have the master wait for a writer who never comes.
"""

from __future__ import annotations

import errno
import math
import stat
from typing import Final

from prefork.system.guarded_path import reach
from prefork.system.natives import os, select, time

MOST: Final = 1 << 22
"""Bytes that are read of one."""

_PIECE: Final = 1 << 16


def read(path: str, patience: float = math.inf) -> bytes:
    """What stands in it.

    Args:
        path: the file's name: a plain file's, a FIFO's, ``/dev/fd/3``.
        patience: for how many seconds who writes into a FIFO is waited for.

    Raises:
        OSError: it can't be read, or should not be; ``strerror`` says why.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    with reach(path) as spot:
        fd = os.open(spot.name, flags, dir_fd=spot.folder) if spot.descriptor else spot.open(flags)
        exposed = spot.exposed and os.geteuid() == 0
    try:
        found = os.fstat(fd)
        if exposed and stat.S_ISREG(found.st_mode) and found.st_nlink != 1:
            raise OSError(errno.EMLINK, "others may write to its folder, and the file has another name as well")
        return _all(fd, patience)
    finally:
        os.close(fd)


def _all(fd: int, patience: float) -> bytes:
    poll, data, waited = select.poll(), bytearray(), False
    poll.register(fd, select.POLLIN)
    end = time.monotonic() + patience
    while len(data) <= MOST:
        try:
            piece = os.read(fd, _PIECE)
        except BlockingIOError:  # somebody has it open for writing
            ended = False
        else:
            data += piece
            # A FIFO without a writer says at first what one says whose writer is done; poll(2) tells the two apart.
            ended = not piece and (waited or bool(data) or not _waits(fd))
            if piece:
                continue
        if ended:
            return bytes(data)
        left = end - time.monotonic()
        if not poll.poll(None if left == math.inf else max(0.0, left) * 1000):
            raise TimeoutError(errno.ETIMEDOUT, "it is a FIFO, and who writes into it does not come to an end")
        waited = True
    raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))


def _waits(fd: int) -> bool:
    """Whether it is of a kind that can be written to while it is read to its end (a FIFO, say)."""
    try:
        os.lseek(fd, 0, os.SEEK_CUR)
    except OSError as error:
        return error.errno == errno.ESPIPE
    return False
