"""Sending what a server says of itself to somebody else's program, without ever waiting for it.

Datagrams are sent or dropped (send(2), MSG_DONTWAIT). A connection is made in the background, and has a little room for
what it doesn't take at once; what finds no room is dropped. A receiver that is not there is tried again once a second
at the most. Any process: datagrams of several may go through one descriptor, a connection is each process's own.
"""

from __future__ import annotations

import errno
from collections import deque
from typing import Any, Final

from prefork.config.receiver import Receiver
from prefork.errors import SettingsError
from prefork.system.clock import SYSTEM, Clock
from prefork.system.natives import os, select, socket, threading

_PAUSE: Final = 1.0  # seconds between two attempts
_TURN: Final = 0.1  # seconds that another thread may take to send
_ROOM: Final = 1 << 16  # bytes that wait for a connection to take them
_UNDER_WAY: Final = frozenset({errno.EINPROGRESS, errno.EALREADY, errno.ENOTCONN})
_NOT_THERE: Final = frozenset({errno.ECONNREFUSED, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH})
"""What comes of a connection that was never made."""


class Sender:
    """Sends to one place.

    Args:
        setting: Which setting names it, for messages.
        receiver: It.
        clock: Where the time comes from.

    Raises:
        SettingsError: The host is not known.
    """

    def __init__(self, setting: str, receiver: Receiver, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._again = float("-inf")
        self._socket: socket.socket | None = None
        self._owner = 0
        self._waiting = bytearray()
        self._lock = threading.Lock()
        self.stream = receiver.stream
        self._type = socket.SOCK_STREAM if receiver.stream else socket.SOCK_DGRAM
        self._local = receiver.kind == "unix"
        self._names: deque[tuple[int, Any]] = deque([(socket.AF_UNIX, receiver.place)])
        if self._local:
            return
        try:
            found = socket.getaddrinfo(receiver.place, receiver.port, type=self._type)
        except OSError as error:
            raise SettingsError(
                f"{setting}: {receiver.place!r} is not known: {error.strerror}; give its address"
            ) from None
        # A host may have several, as localhost has ::1 and 127.0.0.1, and a daemon may listen on one of them.
        self._names = deque((family, name) for family, _, _, _, name in found)

    def send(self, data: bytes) -> bool:
        """Send; never waits, never raises.

        Args:
            data: A datagram, or the next of the stream.

        Returns:
            Whether it was sent, or will be.
        """
        if not self._lock.acquire(timeout=_TURN):
            return False  # a thread that held it is not there any more: this is a child, forked meanwhile
        try:
            return self._send(data)
        finally:
            self._lock.release()

    def _send(self, data: bytes) -> bool:
        if self.stream and self._owner != os.getpid():
            self._drop()  # its parent's: two would write into each other's lines
        if self._socket is None and not self._connect():
            return False
        assert self._socket is not None
        try:
            if not self.stream:
                self._send_datagram(self._socket, data)
                return True
            if len(self._waiting) + len(data) > _ROOM:
                return False
            self._waiting += data
            sent = self._socket.send(self._waiting, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            del self._waiting[:sent]
        except BlockingIOError:
            return self.stream
        except OSError as error:
            if self.stream and error.errno in _UNDER_WAY:
                return True
            if self.stream and error.errno in _NOT_THERE:
                self._names.rotate(-1)
            if self.stream or self._local:
                self._drop()
            return False
        return True

    def _send_datagram(self, sock: socket.socket, data: bytes) -> None:
        try:
            sock.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except ConnectionRefusedError:
            if self._local:
                raise
            # That is what came of the datagram before (udp(7)); this one has not been sent.
            self._elsewhere(sock).send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def _elsewhere(self, sock: socket.socket) -> socket.socket:
        """Where a datagram goes when nobody took the one before: to the host's next address, if it has several."""
        if len(self._names) > 1 and self._clock.monotonic() >= self._again:
            self._names.rotate(-1)
            self._drop()
            self._connect()
        return self._socket or sock

    def flush(self, seconds: float) -> None:
        """Wait for so long, at the most, until a connection has taken what it has been given."""
        if self._waiting and self._socket is not None:
            poll = select.poll()
            poll.register(self._socket, select.POLLOUT)
            if poll.poll(seconds * 1000):
                self.send(b"")

    def close(self) -> None:
        """Give the descriptor back."""
        self.flush(_PAUSE)
        self._drop()

    def _connect(self) -> bool:
        now = self._clock.monotonic()
        if now < self._again:
            return False
        self._again = now + _PAUSE
        for _ in range(len(self._names)):
            sock = self._connected(*self._names[0])
            if sock is not None:
                self._socket, self._owner = sock, os.getpid()
                return True
            self._names.rotate(-1)
        return False

    def _connected(self, family: int, name: Any) -> socket.socket | None:
        """A socket that leads there, or is about to; None where none does."""
        sock = None
        try:
            sock = socket.socket(family, self._type)
            sock.setblocking(False)
            code = sock.connect_ex(name)
        except OSError:
            code = -1
        if code and code not in _UNDER_WAY and sock is not None:
            sock.close()
            sock = None
        return sock

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._waiting.clear()
