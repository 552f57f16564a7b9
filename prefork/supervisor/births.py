"""Births: workers that a mold has been asked for, until each says that it is born, or nobody can any more.

A batch has a line of its own, a SEQPACKET pair. Its other end is with the midwife and her workers, and with nobody
else. A worker that is the master's child says so there, and the kernel beside it whose process it is (unix(7),
SO_PASSCRED), so no number is believed that somebody has written. When the line has ended, all have said so who could:
the rest were not forked, or were killed before.

All of it runs in the MASTER.
"""

from __future__ import annotations

import errno
import logging
import struct
from collections.abc import Callable, Sequence
from typing import Final

from prefork.net.listener import Listener
from prefork.supervisor import midwife
from prefork.supervisor.event_loop import Loop, Timer
from prefork.supervisor.forked import BORN, NOBODY
from prefork.supervisor.midwife import BirthRequest
from prefork.supervisor.worker_line import Birth
from prefork.system.natives import os, socket
from prefork.system.orphans import Adoption

log = logging.getLogger("prefork")

PATIENCE: Final = 10.0
"""Seconds that a mold has for a batch of workers; one that is frozen takes longer."""

_CREDENTIALS: Final = struct.Struct("3i")
_MOST: Final = 64  # bytes of what is said
_GONE: Final = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN})


class Batch:
    """Workers that have been asked for together.

    Args:
        births: which.
        line: our end of the line.
        late: when the mold's time is over.

    Attributes:
        expected: those of whom nothing is known yet, by their entries.
        error: why no more were forked, if that was said.
    """

    def __init__(self, births: Sequence[Birth], line: socket.socket, late: Timer) -> None:
        self.line = line
        self.late = late
        self.expected = {birth.one.entry: birth for birth in births}
        self.error: OSError | None = None


class Births:
    """The births of one server that are under way.

    Args:
        loop: tells of what is said.
        adoption: has the workers given to this process.
        listeners: what they accept on.
        born: called with the pid of each that is a child of ours.
        unborn: called with those that will not be, and why: an error of the system's, or None when somebody was killed.
    """

    def __init__(
        self,
        loop: Loop,
        adoption: Adoption,
        listeners: Sequence[Listener],
        born: Callable[[int, Birth], object],
        unborn: Callable[[Sequence[Birth], OSError | None], object],
    ) -> None:
        self._loop = loop
        self._adoption = adoption
        self._listeners = listeners
        self._born = born
        self._unborn = unborn
        self._batches: list[Batch] = []

    @property
    def under_way(self) -> bool:
        """Whether there are some."""
        return bool(self._batches)

    def ask(self, control: socket.socket, births: Sequence[Birth], hung: Callable[[], None]) -> None:
        """Ask a mold for workers; never blocks. What becomes of each is told, perhaps by this call.

        Args:
            control: the line to the mold.
            births: as they were prepared.
            hung: called when the mold takes too long.
        """
        grouped = tuple(listener.reuse_port for listener in self._listeners)
        at = 0
        failed: OSError | None = None
        while at < len(births) and failed is None:
            try:
                most = midwife.most_at_once(grouped, len(births) - at)
                self._batches.append(self._asked(control, births[at : at + most], grouped, hung))
                at += most
            except OSError as error:
                failed = error
        for birth in births:
            os.close(birth.report)
        if failed is not None and failed.errno in _GONE:
            failed = None  # what becomes of the mold is told by its own exit
        if at < len(births):
            self._unborn(births[at:], failed)

    def refuse(self, births: Sequence[Birth]) -> None:
        """There is nobody to ask."""
        for birth in births:
            os.close(birth.report)
        self._unborn(births, None)

    def _asked(
        self, control: socket.socket, births: Sequence[Birth], grouped: tuple[bool, ...], hung: Callable[[], None]
    ) -> Batch:
        for birth in births:
            birth.announced()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                ours.setblocking(False)
                ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
                self._loop.register(ours.fileno(), self.settle)
                self._adoption.open()
                try:
                    shared = [one.socket_for(0).fileno() for one in self._listeners if not one.reuse_port]
                    own = [fd for birth in births for fd in (birth.report, *self._own(birth))]
                    request = BirthRequest(grouped, tuple(birth.one for birth in births))
                    midwife.ask(control, request, [theirs.fileno(), *shared, *own])
                except BaseException:
                    self._adoption.close()
                    raise
            except BaseException:
                self._loop.unregister(ours.fileno())
                ours.close()
                raise
        return Batch(births, ours, self._loop.call_later(PATIENCE, hung))

    def _own(self, birth: Birth) -> list[int]:
        return [one.socket_for(birth.one.slot).fileno() for one in self._listeners if one.reuse_port]

    def settle(self) -> None:
        """Take note of what has been said by now."""
        for batch in list(self._batches):
            while self._hear(batch):
                pass

    def _hear(self, batch: Batch) -> bool:
        """Take one message of a batch; whether there was one."""
        try:
            data, controls, _, _ = batch.line.recvmsg(_MOST, socket.CMSG_SPACE(_CREDENTIALS.size))
        except BlockingIOError:
            return False
        except OSError:
            data, controls = b"", []
        said = [
            _CREDENTIALS.unpack(bytes_)
            for level, kind, bytes_ in controls
            if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS and len(bytes_) == _CREDENTIALS.size
        ]
        if not data and not any(pid for pid, _, _ in said):
            self._over(batch)
            return False
        for pid, _, _ in said:
            if len(data) == BORN.size:
                self._take(batch, pid, *BORN.unpack(data))
        return True

    def _take(self, batch: Batch, pid: int, entry: int, number: int) -> None:
        if entry == NOBODY:
            batch.error = OSError(number, os.strerror(number))
            return
        birth = batch.expected.pop(entry, None)
        if birth is None:
            return
        if _is_our_child(pid):
            self._born(pid, birth)
        else:
            self._unborn([birth], None)  # it has ended, and somebody else's wait() was faster

    def _over(self, batch: Batch) -> None:
        """Nobody of a batch has anything more to say."""
        self._batches.remove(batch)
        batch.late.cancel()
        self._loop.unregister(batch.line.fileno())
        batch.line.close()
        self._adoption.close()
        if batch.expected:
            self._unborn(list(batch.expected.values()), batch.error)

    def close(self) -> None:
        """Expect nobody any more; for the end of a run that failed. Idempotent."""
        for batch in list(self._batches):
            self._over(batch)


def _is_our_child(pid: int) -> bool:
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except (ChildProcessError, OverflowError):
        return False
    return True
