"""``wsgi.file_wrapper``: a file as a response, sent by the kernel where it can be (PEP 3333)."""

from __future__ import annotations

import io
import stat
from collections.abc import Callable
from typing import NamedTuple, Protocol

from prefork.system.natives import os


class Readable(Protocol):
    """What PEP 3333 asks of a file-like object."""

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes; b"" at the end."""
        ...


class Span(NamedTuple):
    """Part of an open regular file.

    Args:
        fd: The file's descriptor.
        offset: Where the part begins, in bytes.
        length: How long it is, at least 1 byte.
    """

    fd: int
    offset: int
    length: int


class FileWrapper:
    """An iterable over the blocks of a file, which the server knows how to send faster.

    Args:
        filelike: Has ``read(size)``, and perhaps ``close()``, which is then called when the response has ended.
        block_size: How many bytes one step of the iteration reads.
    """

    def __init__(self, filelike: Readable, block_size: int = 1 << 16) -> None:
        self.filelike = filelike
        self.block_size = block_size
        close: Callable[[], None] | None = getattr(filelike, "close", None)
        if close is not None:
            self.close = close

    def __iter__(self) -> FileWrapper:
        return self

    def __next__(self) -> bytes:
        block = self.filelike.read(self.block_size)
        if not block:
            raise StopIteration
        return block

    def span(self) -> Span | None:
        """What iterating would give, when that is simply the rest of a regular file; else None.

        Only the types of the standard library that hand out a file's bytes unchanged qualify. A ``GzipFile`` has a
        ``fileno()`` too, but that descriptor holds other bytes than its ``read()`` gives.
        """
        file = self.filelike
        if type(file) is io.BufferedRandom:
            file.flush()
        raw = file.raw if type(file) in {io.BufferedReader, io.BufferedRandom} else file  # type: ignore[attr-defined]  # both have it
        if type(raw) is not io.FileIO:
            return None
        status = os.fstat(raw.fileno())
        if not stat.S_ISREG(status.st_mode):
            return None
        offset = file.tell()  # type: ignore[attr-defined]  # FileIO and the two buffers have it
        if status.st_size <= offset or not (status.st_blocks or _ends_there(raw.fileno(), status.st_size)):
            return None
        return Span(raw.fileno(), offset, status.st_size - offset)


def _ends_there(fd: int, size: int) -> bool:
    """Whether a file without blocks on a disk is sparse, not made up by the kernel when it is read (/proc, /sys).

    The size of the latter need not be true.
    """
    try:
        return bool(os.pread(fd, 1, size - 1))
    except OSError:
        return False
