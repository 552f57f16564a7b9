"""An accepted connection as the server uses it: whoever is at the other end, no call waits for ever.

Sends and receives are first tried without waiting (MSG_DONTWAIT, recv(2)): on a busy server the request is there when
the connection is accepted, and a small response fits into the socket's buffer, so a timeout would cost a system call
for nothing. Only a call that would block waits, with poll(2), and is charged for it:

A connection has *patience*, a bucket of ``io_timeout`` seconds. Waiting takes out what it lasted; each byte that moves
puts back ``1 / min_rate`` seconds, never above full. So a client that stands still is cut after ``io_timeout``, one
that moves a byte a second soon after that, and one that is merely slow is never cut. The time that the application
itself takes is not counted.
"""

from __future__ import annotations

import array
import fcntl
import math
import os
import select
import socket
import struct
import termios
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final

from prefork.net.queue import Diag
from prefork.wsgi.refusal import ClientGoneError, RequestError

RECEIVE: Final = 1 << 16  # bytes asked for in one receive

# Plain numbers: an operation on an enumeration's members costs as much as a system call.
_DONTWAIT: Final = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
_MORE: Final = int(socket.MSG_MORE)
_LINGER_SECONDS: Final = 2.0
_LINGER_BYTES: Final = 1 << 24
_SENDFILE_BYTES: Final = 1 << 30  # at once; sendfile(2) moves at most 0x7ffff000

# struct tcp_info (linux/tcp.h): the state, and how many milliseconds ago data and any segment came in.
_TCP_INFO_BYTES: Final = 60
_TCP_LAST_RECEIVED: Final = struct.Struct("=II")
_TCP_LAST_RECEIVED_AT: Final = 52
_TCP_ESTABLISHED: Final = 1
_TCP_CLOSE_WAIT: Final = 8
_HALF_CLOSE_MS: Final = 100


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a client may make a worker wait.

    Args:
        io_timeout: Seconds; ``math.inf`` for no limit.
        seconds_per_byte: What a byte that moves puts back; ``math.inf`` makes any progress enough.
        waiting: Told before each wait how many seconds it may last at most, infinity included, and 0 when it is over,
            so that the limit of the worker's own busy time can be put off: that one is the application's.
    """

    io_timeout: float = math.inf
    seconds_per_byte: float = math.inf
    waiting: Callable[[float], None] | None = None


class Channel:
    """A plain connection. Used by the thread that serves it; closing the socket is left to who accepted it.

    Args:
        connection: An accepted stream socket, in whatever mode of blocking.
        pace: How long its client may make us wait.

    Attributes:
        deadline: On the clock of `time.monotonic`: when a wait ends whatever the patience.
        can_sendfile: Whether `sendfile` may be called.
    """

    __slots__ = ("_connection", "_pace", "_patience", "deadline")

    can_sendfile: ClassVar[bool] = True
    _flags: ClassVar[int] = _DONTWAIT
    _counts: ClassVar[bool] = True  # whether a call says of all that it has moved, before it would block

    def __init__(self, connection: socket.socket, pace: Pace) -> None:
        if connection.gettimeout():
            connection.setblocking(True)  # a timeout of its owner's would make each call wait before it tries
        self._connection = connection
        self._pace = pace
        self._patience = pace.io_timeout
        self.deadline = math.inf

    def receive(self, size: int) -> bytes:
        """Up to ``size`` bytes, as soon as there are any; b"" when the client has ended its side.

        Raises:
            RequestError: 408, the client was too slow.
            ClientGoneError: The connection is lost.
        """
        while True:
            try:
                data = self._connection.recv(size, self._flags)
            except OSError as error:
                self._block(error, select.POLLIN)
            else:
                self._moved(len(data))
                return data

    def send(self, data: bytes | memoryview, *, more: bool = False) -> None:
        """Hand all of ``data`` to the kernel.

        Args:
            data: At least one byte.
            more: Whether more follows at once (MSG_MORE, send(2)).

        Raises:
            RequestError: 408, the client was too slow.
            ClientGoneError: The connection is lost.
        """
        flags = self._flags | _MORE if more and self._flags else self._flags
        while True:
            try:
                sent = self._connection.send(data, flags)
            except OSError as error:
                self._block(error, select.POLLOUT)
                continue
            self._moved(sent)
            if sent == len(data):
                return
            data = memoryview(data)[sent:]

    def sendfile(self, fd: int, offset: int, count: int) -> int:
        """Send part of a file without copying it through this process (sendfile(2)).

        Args:
            fd: The descriptor of a regular file; its position is neither used nor changed.
            offset: Where in the file to begin, in bytes.
            count: How many bytes to send.

        Returns:
            How many were sent; fewer than ``count`` only when the file ended before.

        Raises:
            RequestError: 408, the client was too slow.
            ClientGoneError: The connection is lost.
            OSError: The file can't be read.
        """
        self._connection.setblocking(False)  # sendfile(2) takes no MSG_DONTWAIT
        end = offset + count
        while offset < end:
            try:
                sent = os.sendfile(self._connection.fileno(), fd, offset, min(end - offset, _SENDFILE_BYTES))
            except (BlockingIOError, ConnectionError, TimeoutError) as error:
                self._block(error, select.POLLOUT)
                continue
            if sent == 0:
                break
            self._moved(sent)
            offset += sent
        return count - (end - offset)

    def hung_up(self) -> bool:
        """Whether the client has closed the connection, and nobody would read an answer.

        A TCP client that closes and one that only ends its side (shutdown(2)) send the same FIN, and the latter waits
        for its answer. So a FIN alone says nothing; only a reset does, or the client's socket itself, if it is one of
        this machine (a proxy's, most often) and nobody has it open any more.
        """
        try:
            info = self._connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        except OSError:  # not TCP; on AF_UNIX poll(2) tells the two apart
            return any(events & select.POLLHUP for _, events in self._poll(select.POLLIN, 0))
        state = info[0]
        if state == _TCP_ESTABLISHED:
            return False
        if state != _TCP_CLOSE_WAIT:
            return True
        data_ms, segment_ms = _TCP_LAST_RECEIVED.unpack_from(info, _TCP_LAST_RECEIVED_AT)
        # Who ends his side together with the request is there: that saves the question.
        return data_ms - segment_ms > _HALF_CLOSE_MS and self._abandoned()

    def _abandoned(self) -> bool:
        try:
            diag = Diag()
            try:
                return diag.abandoned(self._connection)
            finally:
                diag.close()
        except OSError:
            return False  # gone this very moment, or no descriptor is left: the next send will tell

    def unread(self) -> bool:
        """Whether bytes wait that nobody has received."""
        return self._queued(termios.FIONREAD) > 0

    def linger(self) -> None:
        """Say that nothing more will be sent, and discard what still comes, within bounds of time and bytes.

        A socket that is closed while unread bytes are in its buffer sends RST in place of FIN, and drops what the
        client has not acknowledged yet: the answer would be lost to just the client that is still sending (RFC 9112,
        9.6).
        """
        left = _LINGER_BYTES
        self.deadline = time.monotonic() + _LINGER_SECONDS
        try:
            self._end_sending()
            while left > 0 and time.monotonic() < self.deadline:
                data = self._discard(RECEIVE)
                if not data:
                    return
                left -= len(data)
        except OSError:
            pass  # too slow or gone: either way it is over

    def abort(self) -> None:
        """Let the coming close send RST, so that a response cut short is not taken for a whole one (SO_LINGER)."""
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def close(self) -> None:
        """Release what this object added to the socket; a plain connection has nothing of the kind."""

    def _end_sending(self) -> None:
        self._connection.shutdown(socket.SHUT_WR)

    def _discard(self, size: int) -> bytes:
        return self.receive(size)

    def _block(self, error: OSError, event: int) -> None:
        """Wait when ``error`` only says that the call would block; else the connection is lost."""
        if not isinstance(error, BlockingIOError):
            raise ClientGoneError(str(error)) from error
        self._wait(event)

    def _wait(self, event: int) -> None:
        longest = min(self._patience, self.deadline - time.monotonic())
        if longest <= 0:
            raise RequestError(408, "the client was too slow")
        waiting = self._pace.waiting
        if waiting is not None:
            waiting(longest)
        queue = termios.TIOCOUTQ if event == select.POLLOUT else termios.FIONREAD
        before = self._queued(queue)
        began = time.monotonic()
        ready = self._poll(event, None if longest == math.inf else longest * 1000)
        self._patience -= time.monotonic() - began
        if waiting is not None:
            waiting(0.0)
        if ready and self._counts:
            return
        # The kernel reports room only when a good part of the buffer is free. A reader that is slow but steady may
        # not have come so far, yet what it has read left the queue.
        moved = abs(self._queued(queue) - before)
        if not ready and not moved:
            raise RequestError(408, "the client was too slow")
        self._moved(moved)

    def _poll(self, event: int, milliseconds: float | None) -> list[tuple[int, int]]:
        poll = select.poll()
        poll.register(self._connection, event)
        return poll.poll(milliseconds)

    def _moved(self, count: int) -> None:
        full = self._pace.io_timeout
        if self._patience != full and count:
            self._patience = min(full, self._patience + count * self._pace.seconds_per_byte)

    def _queued(self, request: int) -> int:
        count = array.array("i", [0])
        fcntl.ioctl(self._connection, request, count)
        return count[0]
