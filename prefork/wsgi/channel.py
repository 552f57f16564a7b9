"""An accepted connection as the server uses it: whoever is at the other end, no call waits for ever.

Sends and receives are first tried without waiting (MSG_DONTWAIT, recv(2)): on a busy server the request is there when
the connection is accepted, and a small response fits into the socket's buffer, so a timeout would cost a system call
for nothing. Only a call that would block waits, with poll(2), and is charged for it:

A connection has *patience*, a bucket of ``io_timeout`` seconds. Waiting takes out what it lasted; each byte that comes
from the client, or that it acknowledges while it is waited for, puts back ``1 / min_rate`` seconds, never above full.
So a client that stands still is cut after ``io_timeout``, one that moves a byte a second soon after that, and one that
is merely slow is never cut. What goes into this side's own buffer is not the client's doing and counts for nothing. The
time that the application itself takes is not counted.
"""

from __future__ import annotations

import array
import errno
import fcntl
import math
import struct
import termios
from collections.abc import Callable
from typing import Any, ClassVar, Final

from prefork.net.lingering import ours
from prefork.net.queue import Diag
from prefork.system.natives import os, select, socket, time
from prefork.system.record import Record
from prefork.wsgi.refusal import ClientGoneError, NothingYetError, RequestError

RECEIVE: Final = 1 << 16  # bytes asked for in one receive

# Plain numbers: an operation on an enumeration's members costs as much as a system call.
_DONTWAIT: Final = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
_MORE: Final = int(socket.MSG_MORE)
_TELL: Final = 0.05  # seconds between two words about progress
_LOOK: Final = 0.01  # seconds between two looks at whether somebody has moved who is not there yet: at the least,
_LOOKS: Final = 50  # as part of io_timeout,
_LOOK_MOST: Final = 0.5  # and at the most
_NO_SENDFILE: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
_SENDFILE_BYTES: Final = 1 << 30  # at once; sendfile(2) moves at most 0x7ffff000

# struct tcp_info (linux/tcp.h): the state, and how many milliseconds ago data and any segment came in.
_TCP_INFO_BYTES: Final = 60
_TCP_LAST_RECEIVED: Final = struct.Struct("=II")
_TCP_LAST_RECEIVED_AT: Final = 52
_TCP_ESTABLISHED: Final = 1
_TCP_SYN_RECV: Final = 3
_TCP_CLOSE_WAIT: Final = 8
_HALF_CLOSE_MS: Final = 100
_RESET, _NO_RESET = struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)


class Pace(Record):
    """How long a client may make a worker wait.

    Args:
        io_timeout: Seconds; ``math.inf`` for no limit.
        seconds_per_byte: What a byte that moves puts back; ``math.inf`` makes any progress enough.
        waiting: Told before each wait how many seconds it may last at most, infinity included, and 0 when it is over,
            so that the limit of the worker's own busy time can be put off: that one is the application's. It is told 0
            without a wait, too, where the server itself is at work for the client.
        silence: For a connection on which nothing has come yet when it is first waited for: how many seconds that may
            still last, as seen on its socket. None for no such limit.
    """

    io_timeout: float = math.inf
    seconds_per_byte: float = math.inf
    waiting: Callable[[float], None] | None = None
    silence: Callable[[socket.socket], float] | None = None

    def bears(self, connection: socket.socket) -> bool:
        """Whether a connection on which nothing has come may go on to be silent."""
        return self.silence is None or self.silence(connection) > 0


class Channel:
    """A plain connection. Used by the thread that serves it; closing the socket is left to who accepted it.

    Args:
        connection: An accepted stream socket, in whatever mode of blocking.
        pace: How long its client may make us wait.

    Attributes:
        deadline: On the clock of `time.monotonic`: when a wait ends whatever the patience.
        stray: Whether the client may still send, or has sent, what nobody will receive.
        last: Whether the client has announced to send no more on the connection.
        keep: Whether the connection is to be kept after the response.
        rest: What was received behind the request: it belongs to the next.
        gone: Whether the client can't be answered, or is not to be.
        environ: What all requests on it have in common.
        standing: Of the peer, as `prefork.wsgi.forwarded.standings` has it.
        can_sendfile: Whether `sendfile` may be called.
        waited: For how many milliseconds what it brings had waited for us, as far as `hung_up` was asked; -1 when the
            kernel doesn't tell.
    """

    __slots__ = (
        "_connection",
        "_pace",
        "_patience",
        "_told",
        "_unheard",
        "deadline",
        "environ",
        "gone",
        "keep",
        "last",
        "rest",
        "standing",
        "stray",
        "waited",
    )

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
        self._told = 0.0
        self._unheard = self.stray = True
        self.last = self.gone = False
        self.keep = False
        self.rest = b""
        self.waited = 0
        self.environ: dict[str, Any] = {}
        self.standing = 0

    def resume(self) -> None:
        """The next request begins, on a connection that was kept."""
        self._patience = self._pace.io_timeout
        self.stray = True
        self.last = self.gone = self.keep = False
        self.waited = 0

    def unasked(self) -> None:
        """No request has come, and the next to come is the first."""

    @property
    def secured(self) -> socket.socket | None:
        """The socket that has taken the place of the one that was given, if one has."""
        return None

    @property
    def buffered(self) -> bool:
        """Whether something waits that was received, and that the socket will not show again."""
        return bool(self.rest)

    def receive(self, size: int, *, elsewhere: bool = False) -> bytes:
        """Up to ``size`` bytes, as soon as there are any; b"" when the client has ended its side.

        Args:
            size: How many.
            elsewhere: Whether the client can be waited for elsewhere, when there are none now.

        Raises:
            NothingYetError: ``elsewhere``, and there are none.
            RequestError: 408, the client was too slow.
            ClientGoneError: The connection is lost.
        """
        while True:
            try:
                data = self._connection.recv(size, self._flags)
            except OSError as error:
                self._block(error, select.POLLIN, elsewhere=elsewhere)
            else:
                if self._patience != self._pace.io_timeout:
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
            except OSError as error:
                if error.errno not in _NO_SENDFILE:
                    raise
                sent = self._copy(fd, offset, end - offset)
            if sent == 0:
                break
            self.progress()
            offset += sent
        return count - (end - offset)

    def _copy(self, fd: int, offset: int, count: int) -> int:
        """Send some of a file whose filesystem knows no sendfile(2); how many bytes, 0 at its end."""
        piece = os.pread(fd, min(count, RECEIVE), offset)
        if piece:
            self.send(piece)
        return len(piece)

    def hung_up(self) -> bool:
        """Whether the client has closed the connection, and nobody would read an answer.

        A TCP client that closes and one that only ends its side (shutdown(2)) send the same FIN, and the latter waits
        for its answer. So a FIN alone says nothing; only a reset does, or the client's socket itself, if it is one of
        this machine (a proxy's, most often) and nobody has it open any more.
        """
        try:
            info = self._connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        except OSError:  # not TCP; on AF_UNIX poll(2) tells the two apart
            self.waited = -1
            return any(events & select.POLLHUP for _, events in self._poll(select.POLLIN, 0))
        data_ms, segment_ms = _TCP_LAST_RECEIVED.unpack_from(info, _TCP_LAST_RECEIVED_AT)
        self.waited += data_ms
        state = info[0]
        if state == _TCP_ESTABLISHED:
            return False
        if state != _TCP_CLOSE_WAIT:
            return state != _TCP_SYN_RECV  # with fast_open a request is here before its handshake is done
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

    def part(self) -> None:
        """Close, so that the client gets all that was sent, without waiting for it.

        A socket that is closed while unread bytes are in its buffer sends RST in place of FIN, and drops what the
        client has not acknowledged yet: the answer would be lost to just the client that is still sending (RFC 9112,
        9.6). Who has announced to close, and has sent no body, sends nothing more: that saves a system call.
        """
        if not self.gone and (self.stray or (not self.last and self.unread())):
            self.linger()
        else:
            self.close()

    def linger(self) -> None:
        """Say that nothing more will be sent, and let what still comes be discarded (`prefork.net.lingering`)."""
        ours.take(self._connection)

    def abort(self) -> None:
        """Close at once, by RST, so that a response cut short is not taken for a whole one.

        Here, because whoever closes it later may end it for copies first (shutdown(2)): that sends FIN.
        """
        self.gone = True
        self.reset_on_close(True)
        self._connection.close()

    def reset_on_close(self, on: bool) -> None:
        """Have any close send RST in place of FIN (SO_LINGER, socket(7)), the kernel's at this process's death too."""
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET if on else _NO_RESET)

    def close(self) -> None:
        """Release what this object added to the socket; a plain connection has nothing of the kind."""

    def _block(self, error: OSError, event: int, *, elsewhere: bool = False) -> None:
        """Wait when ``error`` only says that the call would block; else the connection is lost."""
        if not isinstance(error, BlockingIOError):
            self.gone = True
            raise ClientGoneError(str(error)) from error
        self._wait(event, elsewhere=elsewhere)

    def progress(self) -> None:
        """Say that the client is being served by the server itself, in a loop that need not wait.

        What a client drives is no hang of the application's, however fast the client is.
        """
        waiting = self._pace.waiting
        if waiting is not None:
            now = time.monotonic()
            if now >= self._told + _TELL:
                self._told = now
                waiting(0.0)

    def _wait(self, event: int, *, elsewhere: bool = False) -> None:
        longest = min(self._patience, self.deadline - time.monotonic())
        if self._unheard:
            self._unheard = False
            if self._pace.silence is not None:
                longest = min(longest, self._pace.silence(self._connection))
        if longest > 0:
            if elsewhere:
                raise NothingYetError
            waiting = self._pace.waiting
            if waiting is not None:
                waiting(longest)
            try:
                if self._waited(event, longest):
                    return
            finally:
                if waiting is not None:
                    waiting(0.0)
        self.gone = event == select.POLLOUT  # who doesn't read reads no refusal either
        raise RequestError(408, "the client was too slow")

    def _waited(self, event: int, longest: float) -> bool:
        """Wait until there is something to do, for ``longest`` seconds at the most; whether there is."""
        outwards = event == select.POLLOUT
        if not outwards and self._counts:
            return self._slept(event, longest)
        # The kernel reports room only when a good part of the buffer is free, and OpenSSL nothing before a record is
        # whole. Who is slow but steady may not have come so far, but the queue tells. It is looked at often: how long
        # somebody stands still counts from when he last moved.
        queue = termios.TIOCOUTQ if outwards else termios.FIONREAD
        before = self._queued(queue)
        while longest > 0:
            piece = min(longest, max(_LOOK, self._pace.io_timeout / _LOOKS), _LOOK_MOST)
            ready = self._slept(event, piece)
            moved = abs(self._queued(queue) - before)
            self._moved(moved)
            if ready or moved:
                return True
            longest -= piece
        return False

    def _slept(self, event: int, longest: float) -> bool:
        """Wait for ``event``, and take what that lasted from the patience."""
        began = time.monotonic()
        ready = self._poll(event, None if longest == math.inf else longest * 1000)
        self._patience -= time.monotonic() - began
        return bool(ready)

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
