"""A place of the master's where who asks is answered, once: for probes, and for whoever looks at the server.

Nobody who is slow or silent holds up anything: reads and writes never block, whoever has not asked after `PATIENCE`
seconds or has not taken the answer is closed, and so is the oldest of too many.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

from prefork.config.address import Address, parse
from prefork.config.settings import Settings
from prefork.errors import ListenError
from prefork.net import binding
from prefork.net.options import SocketOptions
from prefork.net.unixpath import Claim
from prefork.services.peer_listener import PAUSE, PeerListener
from prefork.supervisor.event_loop import Loop, Timer
from prefork.supervisor.service import ServerView, Service
from prefork.system.natives import os, select, socket
from prefork.system.peer import format_peer

log = logging.getLogger("prefork")

MOST: Final = 64
"""Peers at one time."""

PATIENCE: Final = 5.0
"""Seconds that a peer has to ask, and to take note of the answer."""

LONGEST: Final = 8192
"""Bytes of what is asked; it may be cut there."""

_BACKLOG: Final = 128
_SEND: Final = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


class AnswerService(Service):
    """A place where who comes is answered; what is said, and whether they ask first, is a subclass's affair.

    Args:
        setting: the name of the setting, for messages.
        where: its value.
    """

    asks = False

    def __init__(self, setting: str, where: str) -> None:
        self._setting = setting
        self._where = where
        self._kept: socket.socket | None = None

    def answer(self, request: bytes) -> bytes:
        """What is said to a peer that has asked so; b"" where none asks."""
        raise NotImplementedError

    def check(self, settings: Settings) -> None:  # noqa: ARG002  # others need them
        """Find out whether the address could be had.

        Raises:
            ListenError: it can't.
        """
        try:
            binding.check(parse(self._where), options=SocketOptions())
        except ListenError as error:
            raise self._refused(error) from None

    def _refused(self, error: ListenError) -> ListenError:
        return ListenError(f"{self._setting}: {str(error).removeprefix('bind: ')}")

    def attach(self, server: ServerView) -> None:
        """Listen.

        Raises:
            ListenError: the address can't be had.
        """
        self._server = server
        self._loop: Loop = server.loop
        self._listener = PeerListener[AnswerPeer](self._loop, f"{self._setting}:", logging.DEBUG, self._arrived)
        try:
            self._listen()
        except ListenError as error:
            if not server.settings.takeover:
                raise self._refused(error) from None
            log.info("%s is the predecessor's until that has ended", self._setting)
            self._loop.call_later(PAUSE, self._listen_later)

    def _listen_later(self) -> None:
        """Take the predecessor's place as soon as it is free."""
        try:
            self._listen()
        except ListenError:
            self._loop.call_later(PAUSE, self._listen_later)

    def _listen(self) -> None:
        address = parse(self._where)
        kept, self._kept = self._kept, None
        if kept is not None and _is_at(kept, address):
            sock, claim = kept, None
        else:
            if kept is not None:
                kept.close()
            bound, file_id = binding.bind(address, count=1, backlog=_BACKLOG, options=SocketOptions(), reuse_port=False)
            sock = bound[0].to_socket()
            claim = None if file_id is None else Claim(address.path, file_id)
        self._listener.listen(sock, claim)
        # A path's socket keeps the name under which it was made.
        log.info("%s: %s", self._setting, format_peer(sock.getsockname()) if claim is None else f"unix:{address.path}")

    def keep(self) -> Sequence[int]:
        """The listening socket: nobody is refused because the code is new."""
        if self._listener.sock is None or self._listener.has_path:
            return ()  # a path is taken anew by its next owner
        return (self._listener.sock.fileno(),)

    def receive(self, kept: Sequence[int]) -> None:
        """What `keep` gave in the image before."""
        first, *others = kept
        self._kept = socket.socket(fileno=first)
        super().receive(others)

    def after_fork(self, slot: int, generation: int) -> None:  # noqa: ARG002  # others need them
        """WORKER. Close the sockets."""
        self._listener.after_fork()

    def detach(self) -> None:
        """Close all of it, and remove the path."""
        self._listener.close()

    def _arrived(self, connection: socket.socket) -> None:
        peers = self._listener.peers
        while len(peers) >= MOST:
            peers[0].close()
        peer = AnswerPeer(connection, self._loop, self.answer, peers.remove)
        peers.append(peer)
        peer.start(asks=self.asks)


class AnswerPeer:
    """One connection.

    Args:
        sock: the connection, non-blocking.
        loop: the master's.
        answer: gives what it is told, by what it has asked.
        on_close: called with the peer when the connection has been closed.
    """

    def __init__(
        self,
        sock: socket.socket,
        loop: Loop,
        answer: Callable[[bytes], bytes],
        on_close: Callable[[AnswerPeer], None],
    ) -> None:
        self.sock = sock
        self._loop = loop
        self._answer = answer
        self._on_close = on_close
        self._asked = bytearray()
        self._told = False
        self._rest = memoryview(b"")
        self._watched = 0
        self._deadline: Timer | None = None

    def start(self, *, asks: bool) -> None:
        """Wait for what it asks, or tell it at once."""
        try:
            self._watch(self._read, select.EPOLLIN)
        except OSError:
            self.close()
            return
        self._deadline = self._loop.call_later(PATIENCE, self.close)
        if not asks:
            self._tell()

    def close(self) -> None:
        """Close the connection. Idempotent."""
        if self.sock.fileno() >= 0:
            if self._deadline is not None:
                self._deadline.cancel()
            self._loop.unregister(self.sock.fileno())
            self.sock.close()
            self._on_close(self)

    def _read(self) -> None:
        try:
            data = self.sock.recv(LONGEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
        elif not self._told:
            self._asked += data
            if b"\r\n\r\n" in self._asked or b"\n\n" in self._asked or len(self._asked) > LONGEST:
                self._tell()

    def _tell(self) -> None:
        """Say it, as fast as the peer takes it."""
        self._told = True
        self._rest = memoryview(self._answer(bytes(self._asked)))
        self._write()

    def _write(self) -> None:
        """Go on, and wait for the peer to end: closed with something unread, it might lose the answer (tcp(7))."""
        try:
            self._rest = self._rest[self.sock.send(self._rest, _SEND) :]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        try:
            self._watch(self._write if self._rest else self._read, select.EPOLLOUT if self._rest else select.EPOLLIN)
            if not self._rest:
                self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()

    def _watch(self, callback: Callable[[], None], events: int) -> None:
        if events != self._watched:
            self._loop.unregister(self.sock.fileno())
            self._loop.register(self.sock.fileno(), callback, events)
            self._watched = events


def _is_at(sock: socket.socket, address: Address) -> bool:
    """Whether a socket that was kept lies where the settings want it."""
    try:
        name = sock.getsockname()
    except OSError:
        return False
    if address.kind == "abstract":
        return isinstance(name, bytes) and os.fsdecode(name[1:]) == address.name
    return isinstance(name, tuple) and address.port in {0, name[1]} and name[0] == (address.host or "0.0.0.0")
