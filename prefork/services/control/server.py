"""The master's side of the control socket.

Each connection is a :class:`Peer`, which reads one request at a time and is answered before its next one is looked at.
Whoever is slow, silent or talkative costs a descriptor and a few kilobytes, and holds up nobody: reads and writes
never block, a request has an end after :data:`~prefork.services.control.protocol.LONGEST` bytes, half a request and an
answer that nobody takes have a deadline, and when there are too many peers the longest silent one goes.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from typing import Final

from prefork._version import __version__
from prefork.config import address
from prefork.config.address import Address
from prefork.config.settings import Settings
from prefork.errors import ListenError
from prefork.net import binding
from prefork.net.options import SocketOptions
from prefork.net.unixpath import Claim
from prefork.services.control import paths, protocol
from prefork.services.control.operations import Operations
from prefork.services.control.protocol import ControlRequestError
from prefork.services.peer_listener import PAUSE, PeerListener
from prefork.status.collector import StatusCollector
from prefork.status.totals import Counters
from prefork.supervisor.event_loop import Loop, Timer
from prefork.supervisor.notifications import Notification
from prefork.supervisor.service import ServerView, Service
from prefork.system.natives import os, select, socket

log = logging.getLogger("prefork")

MOST: Final = 32
"""Peers at one time."""

PATIENCE: Final = 10.0
"""Seconds that a peer has for the rest of a request, or for taking its answer."""

_BACKLOG: Final = 64
_CREDENTIALS: Final = struct.Struct("=iII")


_OPTIONS: Final = SocketOptions(mode=0o600)


def _address(path: str) -> Address:
    return address.parse(f"unix:{os.path.abspath(path)}")


class Control(Service):
    """The control socket of one server.

    Args:
        path: where it lies; "auto" for the default place, which is done without when it can't be had.
    """

    def __init__(self, path: str) -> None:
        self._wanted = path
        self._counters = Counters()

    def check(self, settings: Settings) -> None:  # noqa: ARG002  # others need them
        """Find out whether the path could be had, if it was asked for by name.

        Raises:
            ListenError: it can't.
        """
        if self._wanted == "auto":
            return
        try:
            binding.check(_address(self._wanted), options=_OPTIONS)
        except (ListenError, OSError, ValueError) as error:
            raise self._refused(error) from None

    def _refused(self, error: Exception) -> ListenError:
        return ListenError(f"control: {self._wanted!r} can't be listened on: {str(error).removeprefix('bind: ')}")

    def attach(self, server: ServerView) -> None:
        """Listen.

        Raises:
            ListenError: the path can't be had, and it was asked for by name.
        """
        self._loop = server.loop
        self._pidfile = server.settings.pidfile
        self._collector = StatusCollector(server, self._counters, __version__)
        self._operations = Operations(server, self._collector)
        self._listener = PeerListener[Peer](self._loop, "the control socket", logging.WARNING, self._arrived)
        try:
            self._listen()
        except (ListenError, OSError, ValueError) as error:
            if server.settings.takeover and not isinstance(error, ValueError):  # such a path never becomes one
                log.info("the control socket is the predecessor's until that has ended")
                self._loop.call_later(PAUSE, self._listen_later)
                return
            if self._wanted != "auto":
                raise self._refused(error) from None
            log.info("no control socket: %s", str(error).removeprefix("bind: "))

    def _listen_later(self) -> None:
        """Take the predecessor's place as soon as it is free."""
        try:
            self._listen()
        except (ListenError, OSError):
            self._loop.call_later(PAUSE, self._listen_later)

    def _listen(self) -> None:
        path = os.fspath(paths.default(self._pidfile)) if self._wanted == "auto" else os.path.abspath(self._wanted)
        bound, file_id = binding.bind_unix(_address(path), backlog=_BACKLOG, options=_OPTIONS)
        self._listener.listen(bound.to_socket(), None if file_id is None else Claim(path, file_id))
        log.debug("control socket at %s", path)

    def notify(self, notification: Notification) -> None:
        """Enter it into the counters; it may be what somebody waits for."""
        self._counters.notify(notification)
        self._operations.notify(notification)

    def save(self) -> object:
        """The sums so far, and since when."""
        return self._collector.save()

    def restore(self, saved: object) -> None:
        """Go on with the sums of the image before.

        Raises:
            ValueError: they can't be read.
        """
        self._collector.restore(saved)

    def after_fork(self, slot: int, generation: int) -> None:  # noqa: ARG002  # others need them
        """WORKER. Close the sockets."""
        self._listener.after_fork()

    def detach(self) -> None:
        """Take leave of the peers, who see the end of the server by it, and remove the path."""
        self._listener.close()

    def _arrived(self, connection: socket.socket) -> None:
        self._make_room()
        peer = Peer(connection, self._loop, self._operations, self._listener.peers.remove)
        self._listener.peers.append(peer)
        uid = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[1]
        if uid not in {0, os.geteuid()}:
            peer.turn_away(ControlRequestError("denied", f"uid {uid} may not; be root or uid {os.geteuid()}"))

    def _make_room(self) -> None:
        peers = self._listener.peers
        while len(peers) >= MOST:
            idle = [peer for peer in peers if not peer.waits]
            min(idle or peers, key=lambda peer: peer.heard_at).close()


class Peer:
    """One connection.

    Args:
        sock: the connection, non-blocking.
        loop: the master's.
        operations: what can be asked for.
        on_close: called with the peer when the connection has been closed.

    Attributes:
        waits: whether a request is being carried out.
        heard_at: when it last said something; monotonic seconds.
    """

    def __init__(
        self, sock: socket.socket, loop: Loop, operations: Operations, on_close: Callable[[Peer], None]
    ) -> None:
        self.sock = sock
        self.waits = False
        self.heard_at = loop.clock.monotonic()
        self._loop = loop
        self._operations = operations
        self._on_close = on_close
        self._input = bytearray()
        self._output = bytearray()
        self._closed = False
        self._last = False
        self._watched = 0
        self._deadline: Timer | None = None
        self._watch()

    def turn_away(self, error: ControlRequestError) -> None:
        """Say why, and close."""
        self._last = True
        self._send(protocol.refusal(error))

    def close(self) -> None:
        """Close the connection. Idempotent."""
        if not self._closed:
            self._closed = True
            self._watch()
            self.sock.close()
            self._on_close(self)

    def _watch(self) -> None:
        """Have the loop look at what matters now, and set or clear the deadline."""
        events = 0
        if not self._closed:
            if self._output:
                events = select.EPOLLOUT
            elif not self.waits and b"\n" not in self._input:
                events = select.EPOLLIN
        if events != self._watched:
            self._loop.unregister(self.sock.fileno())
            if events:
                try:
                    self._loop.register(self.sock.fileno(), self._write if self._output else self._read, events)
                except OSError:
                    events = 0  # no memory for it: the peer waits as well as we do
                    self._loop.call_later(PAUSE, self._watch)
            self._watched = events
        pressing = not self._closed and bool(self._output or (self._input and not self.waits))
        if not pressing:
            self._be_patient()
        elif self._deadline is None:
            self._deadline = self._loop.call_later(PATIENCE, self._too_slow)

    def _be_patient(self) -> None:
        """The request is complete, or the answer taken: what comes next has a deadline of its own."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if self._output:
            self.close()
        else:
            self.turn_away(ControlRequestError("malformed", f"the request has no end after {PATIENCE:g} s"))

    def _read(self) -> None:
        try:
            data = self.sock.recv(protocol.LONGEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.heard_at = self._loop.clock.monotonic()
        if not data:
            self.close()
            return
        self._input += data
        self._next()

    def _next(self) -> None:
        """Carry out the first request of what has come; the others at the loop's next turns."""
        if self._closed or self.waits or self._output:
            return
        line, newline, rest = self._input.partition(b"\n")
        if len(line) >= protocol.LONGEST:
            self.turn_away(ControlRequestError("malformed", f"a request has {protocol.LONGEST} bytes at the most"))
            return
        if newline:
            self._input = rest
            self._be_patient()
            self._carry_out(bytes(line))
        else:
            self._watch()

    def _carry_out(self, line: bytes) -> None:
        try:
            request = protocol.parse(line)
        except ControlRequestError as error:
            if error.code == "malformed":
                self.turn_away(error)
            else:
                self._send(protocol.refusal(error))
            return
        self.waits = True
        self._operations.carry_out(
            request,
            lambda result: self._done(protocol.answer(request, result)),
            lambda why: self._done(protocol.refusal(ControlRequestError("failed", why, request.id))),
        )
        if self.waits:
            self._watch()

    def _done(self, line: bytes) -> None:
        if not self._closed:
            self.waits = False
            self._send(line)

    def _send(self, line: bytes) -> None:
        self._output += line
        self._write()

    def _write(self) -> None:
        try:
            # The host may have SIGPIPE end processes, as programs at a terminal do (send(2)).
            del self._output[: self.sock.send(self._output, socket.MSG_NOSIGNAL)]
        except BlockingIOError:
            pass
        except OSError:
            self.close()  # it has gone
            return
        if not self._output:
            self._be_patient()
            if self._last:
                self.close()
                return
        self._watch()
        if b"\n" in self._input and not self._output:
            self._loop.call_later(0, self._next)
