"""What balancers ask the master: whether the server is fit (HTTP), and how much it can take (HAProxy's agent-check).

Each is a listening socket of the master's and answers that fit into a socket's buffer, so that nobody who is slow or
silent holds up anything: whoever has not asked after `PATIENCE` seconds is closed, and so is the oldest of too many.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

from prefork.config.address import Address, parse
from prefork.errors import ListenError
from prefork.net import binding
from prefork.net.options import SocketOptions
from prefork.net.unixpath import Claim
from prefork.scoreboard.layout import Accepts, Order, Readiness
from prefork.services.peer_listener import PAUSE, PeerListener
from prefork.status.agent import WARM_AFTER, WARM_AGE, Agent, Workload, reason_of
from prefork.status.collector import doing
from prefork.supervisor.event_loop import Loop, Timer
from prefork.supervisor.service import ServerView, Service
from prefork.system.natives import os, socket
from prefork.system.peer import format_peer

log = logging.getLogger("prefork")

MOST: Final = 64
"""Peers at one time."""

PATIENCE: Final = 5.0
"""Seconds that a peer has to ask, and to take note of the answer."""

_LONGEST: Final = 8192  # bytes of a request's head
_BACKLOG: Final = 128
_SEND: Final = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


class ProbeService(Service):
    """A place where probes are answered; what is said, and whether they ask first, is a subclass's affair.

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

    def attach(self, server: ServerView) -> None:
        """Listen.

        Raises:
            ListenError: the address can't be had.
        """
        self._server = server
        self._loop: Loop = server.loop
        self._listener = PeerListener[ProbePeer](self._loop, f"{self._setting}:", logging.DEBUG, self._arrived)
        try:
            self._listen()
        except ListenError as error:
            said = str(error).removeprefix("bind: ")
            if not server.settings.takeover:
                raise ListenError(f"{self._setting}: {said}") from None
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
        log.info("%s: %s", self._setting, format_peer(sock.getsockname()))

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
        peer = ProbePeer(connection, self._loop, self.answer, peers.remove)
        peers.append(peer)
        peer.start(asks=self.asks)


class HealthService(ProbeService):
    """Says whether the server is fit, to whoever asks by HTTP for whatever path."""

    asks = True

    def answer(self, request: bytes) -> bytes:
        """A whole response."""
        method = request.partition(b" ")[0]
        if method not in {b"GET", b"HEAD"}:
            return _response("405 Method Not Allowed", "GET and HEAD alone", "Allow: GET, HEAD\r\n")
        reason = reason_of(self._server.readiness())
        whole = _response("503 Service Unavailable", reason) if reason else _response("200 OK", "ready")
        return whole if method == b"GET" else whole[: whole.index(b"\r\n\r\n") + 4]


class AgentService(ProbeService):
    """Says to HAProxy what share of the clients the server can take."""

    def __init__(self, setting: str, where: str) -> None:
        super().__init__(setting, where)
        self._agent = Agent()

    def answer(self, request: bytes) -> bytes:  # noqa: ARG002  # nobody asks
        """One line."""
        now = self._loop.clock.monotonic()
        readiness = self._server.readiness()
        load = self._load(now) if readiness is Readiness.READY else Workload(1, 0, 0, 0)
        return self._agent.line(readiness, load, now).encode()

    def _load(self, now: float) -> Workload:
        server, free, warm, lanes = self._server, 0, 0, set[int]()
        for member in server.roster:
            if member.starting or member.order is not Order.RUN:
                continue
            view = server.spawner.view(member)
            if doing(member, view, now)[0] in {"idle", "busy"}:
                free += sum(not lane.busy_since for lane in view.lanes)
            served = sum(lane.served + lane.failed for lane in view.lanes)
            warm += served >= WARM_AFTER or now - member.born >= WARM_AGE
            lanes.add(len(view.lanes) if view.accepts is Accepts.USUAL else 0)
        waiting = sum(listener.waiting() for listener in server.listeners)
        size, count = server.goal.size, min(lanes, default=1)
        idle = -(-free // max(1, count))  # as many workers could be wholly idle
        return Workload(size, min(idle, size), min(warm, size), waiting, size * count)


class ProbePeer:
    """One connection. What it is told fits into its socket's buffer.

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
        on_close: Callable[[ProbePeer], None],
    ) -> None:
        self.sock = sock
        self._loop = loop
        self._answer = answer
        self._on_close = on_close
        self._asked = bytearray()
        self._told = False
        self._deadline: Timer | None = None

    def start(self, *, asks: bool) -> None:
        """Wait for what it asks, or tell it at once."""
        try:
            self._loop.register(self.sock.fileno(), self._read)
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
            data = self.sock.recv(_LONGEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
        elif not self._told:
            self._asked += data
            if b"\r\n\r\n" in self._asked or b"\n\n" in self._asked or len(self._asked) > _LONGEST:
                self._tell()

    def _tell(self) -> None:
        """Say it, and wait for the peer to end: closed with something unread, it might lose the answer (tcp(7))."""
        self._told = True
        try:
            self.sock.send(self._answer(bytes(self._asked)), _SEND)
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()


def _response(status: str, body: str, *fields: str) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body) + 1}\r\n"
    return f"{head}Cache-Control: no-store\r\nConnection: close\r\n{''.join(fields)}\r\n{body}\n".encode()


def _is_at(sock: socket.socket, address: Address) -> bool:
    """Whether a socket that was kept lies where the settings want it."""
    try:
        name = sock.getsockname()
    except OSError:
        return False
    if address.kind == "abstract":
        return isinstance(name, bytes) and os.fsdecode(name[1:]) == address.name
    return isinstance(name, tuple) and address.port in {0, name[1]} and name[0] == (address.host or "0.0.0.0")
