"""Sending what a server says of itself to somebody else's program, without ever waiting for it.

Datagrams are sent or dropped (send(2), MSG_DONTWAIT). A connection is made in the background, and has a little room for
what it doesn't take at once; what finds no room is dropped. A receiver that is not there is tried again once a second
at the most. Any process: datagrams of several may go through one descriptor, a connection is each process's own.
"""

from __future__ import annotations

import errno
from typing import Any, Final

from prefork.config.receiver import Receiver
from prefork.errors import SettingsError
from prefork.system.clock import SYSTEM, Clock
from prefork.system.natives import os, select, socket, threading

_PAUSE: Final = 1.0  # seconds between two attempts
_TURN: Final = 0.1  # seconds that another thread may take to send
_ROOM: Final = 1 << 16  # bytes that wait for a connection to take them
_UNDER_WAY: Final = frozenset({errno.EINPROGRESS, errno.EALREADY, errno.ENOTCONN})


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
        self._name: Any = receiver.place
        self._family = socket.AF_UNIX
        if receiver.kind == "unix":
            return
        try:
            found = socket.getaddrinfo(receiver.place, receiver.port, type=self._type)
        except OSError as error:
            raise SettingsError(
                f"{setting}: {receiver.place!r} is not known: {error.strerror}; give its address"
            ) from None
        self._family, self._name = found[0][0], found[0][4]

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
            if self.stream or self._family == socket.AF_UNIX:
                self._drop()
            return False
        return True

    def _send_datagram(self, sock: socket.socket, data: bytes) -> None:
        try:
            sock.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except ConnectionRefusedError:
            if self._family == socket.AF_UNIX:
                raise
            # That is what came of the datagram before (udp(7)); this one has not been sent.
            sock.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

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
        sock = None
        try:
            sock = socket.socket(self._family, self._type)
            sock.setblocking(False)
            code = sock.connect_ex(self._name)
        except OSError:
            code = -1
        if sock is None or (code and code not in _UNDER_WAY):
            if sock is not None:
                sock.close()
            return False
        self._socket, self._owner = sock, os.getpid()
        return True

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._waiting.clear()
