"""The heir of kept connections: at a takeover they go to the successor, not to an end. MASTER, of both servers.

The successor finds its predecessor at an abstract unix name with the predecessor's pid in it, and gives it the inward
end of its own return queue (SCM_RIGHTS, unix(7)); each makes sure by the other's credentials (SO_PEERCRED) who that is.
When that has been heard, or can't be, the predecessor is told to stop. Its workers put what they keep into their return
queue as always, and its master carries the messages over, as they are, until the last worker has left.
"""

from __future__ import annotations

import array
import contextlib
import logging
import struct
from collections.abc import Callable
from typing import Final

from prefork.accept.return_queue import FULL, ReturnQueue
from prefork.scoreboard.layout import Fate
from prefork.supervisor.event_loop import Loop, Timer
from prefork.system.natives import os, socket, time

log = logging.getLogger("prefork")

_CREDENTIALS: Final = struct.Struct("=iII")  # unix(7), SO_PEERCRED
_OFFER: Final = b"prefork heir 1"
_HEARD: Final = b"heard"
_INT: Final = struct.calcsize("i")
_MESSAGE: Final = 1 << 18  # bytes
_RIGHTS: Final = 253  # descriptors in one message (SCM_MAX_FD)
_PATIENCE: Final = 1.0  # seconds for the predecessor to hear, and for the successor to make room at the end
_RETRY: Final = 0.02  # seconds until another try when the heir has no room


def _name(pid: int) -> str:
    return f"\0prefork-heir-{pid}"


def _peer(connection: socket.socket) -> tuple[int, int]:
    """The pid and uid of who is at the other end."""
    pid, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return pid, uid


class Bequest:
    """The predecessor's side: from the start, so that a successor can come.

    Args:
        loop: tells of the successor, and of what workers pass on.
        queue: the server's return queue.
    """

    def __init__(self, loop: Loop, queue: ReturnQueue) -> None:
        self._loop = loop
        self._queue = queue
        self._heir: socket.socket | None = None
        self._held: list[tuple[bytes, bytes]] = []  # taken, with no room for it yet
        self._carries = False
        self._later: Timer | None = None  # when the heir may have room; until then nothing more is taken
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._listener.bind(_name(os.getpid()))
            self._listener.listen(4)
            self._listener.setblocking(False)
            loop.register(self._listener.fileno(), self._come)
        except OSError as error:
            log.debug("a successor won't find where to take kept connections over: %s", error)
            self._listener.close()

    def fate(self) -> Fate:
        """What becomes of kept connections now that the server ends; they are carried over from here on."""
        if self._heir is None:
            return Fate.CLOSED
        if not self._carries:
            self._carries = True
            self._loop.register(self._queue.outward.fileno(), self._carry)
        return Fate.HEIR

    def finish(self) -> None:
        """Every worker has left: carry the rest over. Idempotent."""
        end = time.monotonic() + _PATIENCE
        while self._carries and self._heir is not None:
            self._carry()
            if not self._held or time.monotonic() > end:
                break
            time.sleep(_RETRY)
        self.close()

    def close(self) -> None:
        """Bequeath nothing any more. Idempotent."""
        self._carry_no_more()
        if self._listener.fileno() >= 0:
            self._loop.unregister(self._listener.fileno())
            self._listener.close()
        if self._heir is not None:
            self._heir.close()
            self._heir = None
        self._drop()

    def _come(self) -> None:
        """Somebody has connected: hear him out at once, for he has sent before."""
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            with connection:
                connection.setblocking(False)
                if _peer(connection)[1] not in {0, os.geteuid()}:
                    log.warning("kept connections are not for a process of user %d", _peer(connection)[1])
                    return
                connection.settimeout(_PATIENCE / 2)
                data, rights, _, _ = socket.recv_fds(connection, len(_OFFER), 1, socket.MSG_CMSG_CLOEXEC)
                for fd in rights:
                    heir = socket.socket(fileno=fd)
                    if data != _OFFER:
                        heir.close()
                        continue
                    heir.setblocking(False)
                    if self._heir is not None:
                        self._heir.close()
                    self._heir = heir
                    connection.send(_HEARD)
                    log.info("kept connections will go to the successor, pid %d", _peer(connection)[0])

    def _carry(self) -> None:
        """Carry over what waits, as far as the heir has room."""
        while self._heir is not None:
            if not self._held:
                taken = self._take()
                if taken is None:
                    return
                self._held.append(taken)
            data, rights = self._held[0]
            try:
                self._heir.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            except OSError as error:
                if error.errno in FULL:
                    self._pause()
                    return
                log.warning("the successor takes no kept connections any more: %s", error)
                self._heir.close()
                self._heir = None
                self._carry_no_more()
            self._drop()

    def _pause(self) -> None:
        """The heir has no room now. What waits here is readable all the while, and would keep the loop awake."""
        if self._later is None:
            self._loop.unregister(self._queue.outward.fileno())
            self._later = self._loop.call_later(_RETRY, self._go_on)

    def _go_on(self) -> None:
        self._loop.register(self._queue.outward.fileno(), self._carry)
        self._later = None
        self._carry()

    def _carry_no_more(self) -> None:
        if self._carries:
            self._loop.unregister(self._queue.outward.fileno())
            self._carries = False
        if self._later is not None:
            self._later.cancel()
            self._later = None

    def _take(self) -> tuple[bytes, bytes] | None:
        try:
            data, controls, _, _ = self._queue.outward.recvmsg(
                _MESSAGE, socket.CMSG_SPACE(_RIGHTS * _INT), socket.MSG_CMSG_CLOEXEC
            )
        except OSError:
            return None
        return data, b"".join(rights for _, kind, rights in controls if kind == socket.SCM_RIGHTS)

    def _drop(self) -> None:
        """Close our copies of what was taken."""
        for _, rights in self._held:
            found = array.array("i")
            found.frombytes(rights[: len(rights) - len(rights) % _INT])
            for fd in found:
                os.close(fd)
        self._held.clear()


class Heir:
    """The successor's side: it offers its return queue, and goes on when that has been heard or can't be.

    Args:
        loop: tells of the answer.
        pid: the predecessor's.
        queue: our return queue; None when we keep none.
        done: called once, now or later.
    """

    def __init__(self, loop: Loop, pid: int, queue: ReturnQueue | None, done: Callable[[], object]) -> None:
        self._loop = loop
        self._done: Callable[[], object] | None = done
        self._socket: socket.socket | None = None
        if queue is None or not self._offer(pid, queue):
            self._end()
        else:
            self._timer = loop.call_later(_PATIENCE, self._end)

    def _offer(self, pid: int, queue: ReturnQueue) -> bool:
        try:
            self._socket = made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            made.setblocking(False)
            made.connect(_name(pid))
            if _peer(made)[0] != pid:
                raise PermissionError("another process has its name")
            socket.send_fds(made, [_OFFER], [queue.inward.fileno()])
            self._loop.register(made.fileno(), self._end)
        except OSError as error:
            log.debug("takeover: the predecessor's kept connections stay with it: %s", error)
            return False
        return True

    def _end(self) -> None:
        if self._socket is not None:
            self._loop.unregister(self._socket.fileno())
            self._socket.close()
            self._socket = None
        if self._done is not None:
            done, self._done = self._done, None
            done()
