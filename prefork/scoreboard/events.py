"""The events pipe: small fixed records from the workers to their master.

One pipe for all workers. A record is written by one write(2) of less than PIPE_BUF bytes, so records never mix
(pipe(7)), and the pipe is non-blocking at both ends, so a worker is never held up by a master that doesn't read. A
record is a hint: what it tells stands in the scoreboard as well or will be said again. Workers are not trusted: the
master drops a record whose pid and entry don't belong together in its own roster.
"""

from __future__ import annotations

import enum
import fcntl
import struct

from prefork.system.natives import os
from prefork.system.record import Record

write = os.write

_RECORD = struct.Struct("<HHIQ")


class EventKind(enum.IntEnum):
    """What a worker has to tell."""

    READY = 1
    """Its boot is done and it accepts."""
    RECYCLE_ME = 2
    """It wants a replacement; the value is a :class:`Why`."""
    EXHAUSTED = 3
    """accept(2) failed for want of something; the value is the errno."""
    RELIEVED = 4
    """accept(2) succeeds again."""
    LAST_IDLE = 5
    """It took the last idle place; the value is unused."""


class Why(enum.IntEnum):
    """Why a worker asks for a replacement: a number, as all that workers write; it means the same in every release.

    The master makes a :class:`prefork.supervisor.cause.Cause` of it.
    """

    SIGNALLED = 1
    """Somebody other than the master sent it SIGTERM or SIGQUIT."""
    MAX_REQUESTS = 2
    LEAK = 3
    """It met EMFILE with no more than one connection in hand."""
    LISTENER_LOST = 4
    ASKED = 5
    """The application called ``worker.recycle()``."""


class Event(Record):
    """One record."""

    kind: EventKind
    entry: int
    pid: int
    value: int = 0


class EventsPipe:
    """Both ends of the pipe. Made by the master; each worker keeps the writing end, the master both.

    The master keeps the writing end too, so that the reading end never reports end of file between two workers.
    """

    def __init__(self, ends: tuple[int, int] | None = None) -> None:
        """Make a pipe, or take over the ends of one that an earlier image of this process made."""
        self.reader, self.writer = ends or os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        # 64 KiB, or a page or two for a user with many pipes (pipe(7), pipe-user-pages-soft).
        self._capacity = fcntl.fcntl(self.reader, fcntl.F_GETPIPE_SZ)

    def send(self, kind: EventKind, *, entry: int, pid: int, value: int = 0) -> bool:
        """WORKER. Write one record; never blocks.

        Returns:
            False when the pipe is full or the master is gone; the fact stands in the scoreboard all the same.
        """
        try:
            write(self.writer, _RECORD.pack(kind, entry, pid, value))
        except OSError:
            return False
        return True

    def read(self) -> tuple[list[Event], bool]:
        """MASTER. All records that wait.

        Returns:
            The events, and whether others may have been lost, so that the scoreboard is to be read instead: the pipe
            was full, or something in it is no record, and there is no telling where the next one begins.
        """
        try:
            data = os.read(self.reader, self._capacity)
        except BlockingIOError:
            return [], False
        events = []
        whole = len(data) - len(data) % _RECORD.size
        lost = whole != len(data) or len(data) > self._capacity - _RECORD.size
        for kind, entry, pid, value in _RECORD.iter_unpack(data[:whole]):
            try:
                events.append(Event(EventKind(kind), entry, pid, value))
            except ValueError:
                lost = True
        return events, lost

    def part(self) -> None:
        """In a process that a worker's application has forked: tell nothing any more."""
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    def close(self) -> None:
        """Close both ends. Idempotent."""
        for fd in (self.reader, self.writer):
            if fd >= 0:
                os.close(fd)
        self.reader = self.writer = -1
