"""Many clients in one thread: non-blocking sockets on one epoll, so that the load costs little beside the server.

A thread per client would not do. Open-loop arrivals pile up by the hundred when a server stalls, and it is just
then that the clients must not slow down; and on a small machine the cost of switching threads would be measured
together with the server's.
"""

from __future__ import annotations

import errno
import heapq
import os
import select
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count as counter
from itertools import cycle
from typing import Final

from prefork.config.address import Address, parse
from prefork.system.natives import time
from prefork.testing.exchange import Judge, Outcome
from prefork.testing.tally import Answer, ClientPhase

REFUSED: Final = frozenset({errno.ECONNREFUSED, errno.ENOENT})
RESET: Final = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED})
_QUEUE_FULL_PAUSE: Final = 0.002  # seconds until AF_UNIX is tried again: it can't tell when its queue has room
_AFTER_LOSS_PAUSE: Final = 0.01  # seconds: a closed loop without it would do nothing but collect refusals
_RECEIVE_SIZE: Final = 1 << 16


class ClientError(RuntimeError):
    """The clients' own side failed: no descriptors or ports left here, no route. Says nothing about the server."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to connect.

    Args:
        family: Of the socket.
        type: Of the socket.
        sockaddr: As connect(2) takes it in Python.
    """

    family: socket.AddressFamily
    type: socket.SocketKind
    sockaddr: tuple[object, ...] | str | bytes


def endpoint_of(address: str | Address) -> Endpoint:
    """Where ``address`` is to be reached; host names are resolved here, once.

    Args:
        address: As a server reports it: "127.0.0.1:8000", "[::1]:8000", "unix:/path", "unix:@name", "seqpacket:...".

    Returns:
        The target.

    Raises:
        ValueError: When it is not an address one can connect to.
    """
    parsed = parse(address) if isinstance(address, str) else address
    match parsed.kind:
        case "unix":
            return Endpoint(socket.AF_UNIX, parsed.type, parsed.path)
        case "abstract":
            return Endpoint(socket.AF_UNIX, parsed.type, b"\0" + os.fsencode(parsed.name))
        case "inet" | "inet6":
            # Linux takes a connect to the wildcard address as one to the loopback.
            host = parsed.host or "0.0.0.0"
            family, type_, _, _, sockaddr = socket.getaddrinfo(host, parsed.port, type=socket.SOCK_STREAM)[0]
            return Endpoint(family, type_, sockaddr)
        case _:
            raise ValueError(f"{parsed} is not an address to connect to; give the one the server reports")


class _Attempt:
    """One request on its way."""

    __slots__ = ("answer", "deadline", "phase", "sent", "socket", "started", "target")

    def __init__(self, target: Endpoint, started: float, deadline: float) -> None:
        self.target = target
        self.started = started
        self.deadline = deadline
        self.socket: socket.socket | None = None
        self.phase = ClientPhase.CONNECTING
        self.sent = 0
        self.answer = bytearray()


class Engine:
    """Runs requests until it is told to stop or has done its count, and hands each `Answer` on.

    Args:
        targets: Where to connect, in turn.
        payload: What each client sends once it is connected.
        judge: Decides when an answer is whole.
        timeout: Seconds that a client gives a request, from connect to the end of the answer.
        report: Called with each answer, in the thread that runs the engine.
        clients: How many requests are under way at a time (closed loop); 0 for an open loop.
        interval: Seconds from one arrival to the next, however the earlier ones fare (open loop).
        count: How many requests in all, None for no end.
    """

    def __init__(
        self,
        targets: Sequence[Endpoint],
        payload: bytes,
        judge: Judge,
        timeout: float,
        report: Callable[[Answer], None],
        *,
        clients: int = 0,
        interval: float = 0.0,
        count: int | None = None,
    ) -> None:
        self._targets: Iterator[Endpoint] = cycle(targets)
        self._payload = payload
        self._judge = judge
        self._timeout = timeout
        self._report = report
        self._clients = clients
        self._interval = interval
        self._left = count
        self._stopping = False
        self._aborting = False
        self._epoll = select.epoll()
        self._wakeup = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wakeup, select.EPOLLIN)
        self._in_flight: dict[_Attempt, None] = {}  # in the order of their starts, which is that of their deadlines
        self._by_fd: dict[int, _Attempt] = {}
        self._due: list[tuple[float, int, _Attempt | None]] = []  # a heap; None is a client yet to be made
        self._order = counter()
        self._began = time.monotonic()
        self._arrivals = 0
        self.sent = 0
        """How many have sent their whole request or ended before they could."""

    # From any thread

    def stop(self, *, abort: bool = False) -> None:
        """Start no more requests. Those under way are finished, or dropped uncounted when ``abort``."""
        self._stopping = True
        self._aborting |= abort
        os.eventfd_write(self._wakeup, 1)

    # From the thread that runs it

    def run(self) -> None:
        """Run until the count is done or `stop` was called.

        Raises:
            ClientError: When a socket here could not be made or connected for a reason on this side.
        """
        try:
            self._loop()
        finally:
            for client in self._in_flight:
                if client.socket is not None:
                    client.socket.close()
            self._epoll.close()

    def close(self) -> None:
        """Give back what `stop` needs; once the engine has run, and nobody will stop it any more. Idempotent."""
        if self._wakeup != -1:
            os.close(self._wakeup)
            self._wakeup = -1

    def _loop(self) -> None:
        for _ in range(self._clients or 1):
            self._schedule(self._began, None)
        while not self._aborting:
            now = time.monotonic()
            self._start_due(now)
            self._expire(now)
            if not self._in_flight and not self._wanted():
                return
            for fd, events in self._epoll.poll(self._pause()):
                if fd == self._wakeup:
                    os.eventfd_read(self._wakeup)
                else:
                    self._advance(self._by_fd[fd], events)

    def _pause(self) -> float | None:
        moments = [self._due[0][0]] if self._due else []
        if self._in_flight:
            moments.append(next(iter(self._in_flight)).deadline)
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _start_due(self, now: float) -> None:
        while self._due and self._due[0][0] <= now:
            client = heapq.heappop(self._due)[2]
            if client is not None:
                if client in self._in_flight:  # else its time was up while it waited for room in the queue
                    self._connect(client, now)
            elif self._wanted():
                if self._interval:
                    # Each arrival has its absolute moment: what a stall held up comes at once, as it does in life.
                    self._arrivals += 1
                    self._schedule(self._began + self._arrivals * self._interval, None)
                self._start(now)

    def _wanted(self) -> bool:
        return not self._stopping and self._left != 0

    def _schedule(self, moment: float, client: _Attempt | None) -> None:
        heapq.heappush(self._due, (moment, next(self._order), client))

    def _start(self, now: float) -> None:
        if self._left is not None:
            self._left -= 1
        client = _Attempt(next(self._targets), now, now + self._timeout)
        self._in_flight[client] = None
        self._connect(client, now)

    def _connect(self, client: _Attempt, now: float) -> None:
        target = client.target
        try:
            sock = socket.socket(target.family, target.type | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError as error:
            raise ClientError(f"could not make a client's socket: {error}") from error
        refusal = sock.connect_ex(target.sockaddr)
        if refusal == errno.EAGAIN and target.family == socket.AF_UNIX:
            # The accept queue is full, and a non-blocking connect doesn't wait there, as it does on TCP.
            sock.close()
            self._schedule(now + _QUEUE_FULL_PAUSE, client)
            return
        client.socket = sock
        self._by_fd[sock.fileno()] = client
        if refusal == 0:
            self._epoll.register(sock, select.EPOLLIN)
            self._send(client)
        elif refusal == errno.EINPROGRESS:
            self._epoll.register(sock, select.EPOLLOUT)
        else:
            self._fail(client, refusal)

    def _advance(self, client: _Attempt, events: int) -> None:
        assert client.socket is not None
        if client.phase is ClientPhase.CONNECTING:
            error = client.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                self._fail(client, error)
                return
        # An answer can come before the whole request is sent: a server may echo, or refuse a body by its length.
        elif client.phase is ClientPhase.RECEIVING or events & select.EPOLLIN:
            self._receive(client)
        if client in self._in_flight and client.phase is not ClientPhase.RECEIVING:
            self._send(client)

    def _send(self, client: _Attempt) -> None:
        assert client.socket is not None
        client.phase = ClientPhase.SENDING
        try:
            client.sent += client.socket.send(self._payload[client.sent :], socket.MSG_NOSIGNAL)
        except BlockingIOError:
            pass
        except OSError:
            client.sent = len(self._payload)  # an answer may have come all the same: receiving will tell
        if client.sent < len(self._payload):
            self._epoll.modify(client.socket, select.EPOLLIN | select.EPOLLOUT)
            return
        client.phase = ClientPhase.RECEIVING
        self.sent += 1
        self._epoll.modify(client.socket, select.EPOLLIN)

    def _receive(self, client: _Attempt) -> None:
        assert client.socket is not None
        try:
            data = client.socket.recv(_RECEIVE_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(client, error.errno or 0)
            return
        client.answer += data
        outcome = self._judge(client.answer, not data)
        if outcome is None and not data:
            outcome = Outcome.TRUNCATED if client.answer else Outcome.EMPTY
        if outcome is not None:
            self._finish(client, outcome)

    def _fail(self, client: _Attempt, error: int) -> None:
        if error in REFUSED:
            outcome = Outcome.REFUSED
        elif error in RESET:
            outcome = Outcome.RESET
        elif error == errno.ETIMEDOUT:
            outcome = Outcome.TIMED_OUT
        else:
            raise ClientError(f"{client.phase.value} to {client.target.sockaddr!r}: {os.strerror(error)}")
        self._finish(client, outcome, error)

    def _expire(self, now: float) -> None:
        while self._in_flight:
            client = next(iter(self._in_flight))
            if client.deadline > now:
                return
            self._finish(client, Outcome.TIMED_OUT)

    def _finish(self, client: _Attempt, outcome: Outcome, error: int = 0) -> None:
        del self._in_flight[client]
        if client.socket is not None:
            del self._by_fd[client.socket.fileno()]
            # Closing alone would not do: a child that is being started at this moment holds a copy, and with it the
            # registration stays (epoll(7)).
            try:
                self._epoll.unregister(client.socket)
            except FileNotFoundError:
                pass  # refused at once, and never registered
            client.socket.close()
        if client.phase is not ClientPhase.RECEIVING:
            self.sent += 1
        now = time.monotonic()
        took = now - client.started
        self._report(Answer(outcome, bytes(client.answer), took, client.phase, client.started, error))
        if self._clients and self._wanted():
            self._schedule(now if outcome is Outcome.ANSWERED else now + _AFTER_LOSS_PAUSE, None)
