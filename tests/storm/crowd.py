"""The crowd: clients that behave, at a constant rate, each counted exactly.

`prefork.testing.Load` can't stop its arrivals and say at that moment who is under way; here that is the point. A stop
of the server is lossless for those who have reached it, and one can't say who that is unless arrivals end before it
begins. So `Crowd.pause` returns only when nobody new will come, with the number of those who are there.

Every request carries a number, and an answer counts only if it is whole and has that number: an answer that went to
somebody else is a loss, too. Where the server keeps connections, every other client asks for that, and comes back later
on the one that was used last, as browsers and proxies do; half of what they ask is a POST whose body nobody reads. They
never repeat a request. All others ask the server to close, and it has to.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Final

from prefork.testing.engine import Endpoint, endpoint_of
from prefork.testing.waiting import NotInTimeError, wait_for

GIVEN: Final = 60.0
"""Seconds that a client gives a request before it counts as lost."""

_NOT_YET: Final = {errno.EAGAIN, errno.EINPROGRESS}
_NO_PORT: Final = errno.EADDRNOTAVAIL  # on the clients' side: all are in TIME_WAIT


@dataclass(frozen=True, slots=True)
class Loss:
    """A request that got no answer.

    Args:
        number: Which.
        kept: Whether it came on a connection that had been used before.
        how: In words.
        data: What came of the answer.
        seconds: From connect to the end.
    """

    number: int
    kept: bool
    how: str
    data: bytes
    seconds: float

    def __str__(self) -> str:
        said = f", {bytes(self.data[:60])!r} came" if self.data else ""
        said += ", on a kept connection" if self.kept else ""
        return f"request {self.number} after {self.seconds:.3f} s: {self.how}{said}"


class _Client:
    """One connection, and the request that is under way on it.

    Args:
        sock: The connection.
        idle: Where it is put between two requests; None when it is not to be kept.
    """

    __slots__ = ("data", "idle", "number", "sent", "socket", "started", "used")

    def __init__(self, sock: socket.socket, idle: list[_Client] | None) -> None:
        self.socket = sock
        self.idle = idle
        self.used = False

    def begin(self, number: int, started: float) -> None:
        """The next request."""
        self.number = number
        self.started = started
        self.sent = False
        self.data = b""

    @property
    def request(self) -> bytes:
        """What is sent."""
        head = b"/%d HTTP/1.1\r\nHost: localhost\r\n" % self.number
        if self.idle is None:
            return b"GET " + head + b"Connection: close\r\n\r\n"
        if self.number % 4 < 2:
            return b"GET " + head + b"\r\n"
        return b"POST " + head + b"Content-Length: 5\r\n\r\nhello"

    @property
    def answered(self) -> bool:
        """Whether a whole answer to it has come."""
        return self.data.startswith(b"HTTP/1.1 200 ") and self.data.endswith(b"\r\n\r\n%d" % self.number)


class Crowd:
    """Clients in a thread of their own, from `start` to `end`.

    Args:
        addresses: Where to connect, in turn.
        rate: Arrivals a second, as long as no more than ``most`` are under way.
        most: How many.
        keeps: Whether every other client asks for its connection to be kept.
    """

    def __init__(self, addresses: Sequence[str], rate: float, most: int = 16, *, keeps: bool = False) -> None:
        self.rate, self.most = rate, most
        self.sent = 0
        """Requests so far."""
        self.answered = 0
        self.losses: list[Loss] = []
        self.again = 0
        """Requests that were answered on a connection that had been used before."""
        self.closed = 0
        """Kept connections that the server has closed while nothing was under way on them."""
        self.slowest = 0.0
        """Seconds that the slowest answer took; to be set to 0 by whoever asks."""
        self._targets = cycle([(endpoint_of(address), self._idle_of(keeps=keeps)) for address in addresses])
        self._clients: dict[int, _Client] = {}  # by descriptor, in the order of their starts
        self._idle: dict[int, _Client] = {}  # likewise, with nothing under way
        self._epoll = select.epoll()
        self._wakeup = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wakeup, select.EPOLLIN)
        self._comes = True
        self._ends = False
        self._heard = threading.Event()
        self._oldest = 0
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="crowd", daemon=True)

    @staticmethod
    def _idle_of(*, keeps: bool) -> cycle[list[_Client] | None]:
        """Where the next clients of an address are put between two requests."""
        return cycle([[], None] if keeps else [None])

    # From the test's thread.

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def pause(self) -> int:
        """Let nobody new come; returns how many are under way, each of them connected or about to be."""
        self._comes = False
        self._call()
        return self.sent - self.answered - len(self.losses)

    def resume(self) -> None:
        """Let them come again."""
        self._comes = True
        self._call()

    def barrier(self, timeout: float = GIVEN + 10.0) -> None:
        """Wait until whoever has come so far has got an answer or given up.

        Raises:
            NotInTimeError: That takes longer than it can.
        """
        self._call()
        mark = self.sent

        def passed() -> bool:
            self._check()
            return self._oldest >= mark

        wait_for(passed, timeout, f"the end of the first {mark} requests")

    def end(self) -> None:
        """Drop whoever is under way."""
        self._ends = True
        os.eventfd_write(self._wakeup, 1)
        self._thread.join()
        os.close(self._wakeup)
        self._check()

    def _call(self) -> None:
        """Return when the thread has looked at what it is told."""
        self._heard.clear()
        os.eventfd_write(self._wakeup, 1)
        if not self._heard.wait(GIVEN):
            raise NotInTimeError("the crowd does not listen")
        self._check()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    # In its own.

    def _run(self) -> None:
        try:
            self._loop()
        except BaseException as error:  # noqa: BLE001  # raised in the test's thread
            self._error = error
        finally:
            self._heard.set()
            for client in (*self._clients.values(), *self._idle.values()):
                client.socket.close()
            self._epoll.close()

    def _loop(self) -> None:
        due = time.monotonic()
        while not self._ends:
            now = time.monotonic()
            while self._comes and due <= now and len(self._clients) < self.most:
                self._arrive(now)
                due += 1 / self.rate
            due = max(due, now - 0.01)  # who found no room does not come later all the more
            self._expire(now)
            self._oldest = next(iter(self._clients.values())).number if self._clients else self.sent
            waits = max(0.0, due - now) if self._comes and len(self._clients) < self.most else 1.0
            for fd, _ in self._epoll.poll(waits):
                if fd == self._wakeup:
                    os.eventfd_read(self._wakeup)
                    self._heard.set()
                elif fd in self._idle:
                    self._is_open(self._idle[fd])
                else:
                    self._advance(self._clients[fd])

    def _arrive(self, now: float) -> None:
        target, kinds = next(self._targets)
        idle = next(kinds)
        while idle:
            client = idle.pop()
            if self._is_open(client):
                del self._idle[client.socket.fileno()]
                self._ask(client, now)
                return
        self._come(target, idle, now)

    def _come(self, target: Endpoint, idle: list[_Client] | None, now: float) -> None:
        """Somebody new."""
        sock = socket.socket(target.family, target.type | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        error = sock.connect_ex(target.sockaddr)
        if error == _NO_PORT:
            sock.close()
            return
        # On the loopback the handshake is done when connect returns, unless its first segment was dropped.
        refused = f"connect: {os.strerror(error)}" if error and error not in _NOT_YET else ""
        if not refused:
            self._epoll.register(sock, select.EPOLLIN)
        self._ask(_Client(sock, idle), now, refused)

    def _ask(self, client: _Client, now: float, refused: str = "") -> None:
        """Send the next request, on a connection that nothing is under way on."""
        client.begin(self.sent, now)
        self.sent += 1
        self._clients[client.socket.fileno()] = client
        if refused:
            self._lose(client, refused)
        else:
            self._send(client)

    def _send(self, client: _Client) -> None:
        try:
            client.socket.send(client.request, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            self._epoll.modify(client.socket, select.EPOLLOUT)
            return
        except OSError as error:
            self._lose(client, f"send: {error.strerror}" if client.used else f"connect: {error.strerror}")
            return
        client.sent = True

    def _advance(self, client: _Client) -> None:
        if not client.sent:
            self._epoll.modify(client.socket, select.EPOLLIN)
            self._send(client)
            return
        try:
            data = client.socket.recv(4096)
        except BlockingIOError:
            return
        except OSError as error:
            self._finish(client, error.strerror or str(error))
            return
        client.data += data
        if not data:
            self._finish(client, "closed")
        elif client.idle is not None and client.answered and b"\r\nConnection: close\r\n" not in client.data:
            self._keep(client, client.idle)

    def _keep(self, client: _Client, idle: list[_Client]) -> None:
        """It has its answer, and comes back later."""
        fd = client.socket.fileno()
        self._idle[fd] = self._clients.pop(fd)
        self._count(client)
        client.used = True
        idle.append(client)

    def _is_open(self, client: _Client) -> bool:
        """Whether a kept connection is still there: who is polite looks before he asks (RFC 9112, 9.3.1)."""
        fd = client.socket.fileno()
        if self._idle.get(fd) is not client:
            return False
        try:
            data = client.socket.recv(4096)
        except BlockingIOError:
            return True
        except ConnectionResetError:
            data = b""
        if data:
            self.losses.append(Loss(client.number, client.used, "bytes that nobody asked for", data, 0.0))
        self.closed += 1
        self._part(self._idle.pop(fd))
        return False

    def _finish(self, client: _Client, how: str) -> None:
        """The server has ended the connection; with a whole answer before, it does not matter how."""
        if client.answered:
            self._drop(client)
            self._count(client)
        else:
            self._lose(client, how)

    def _count(self, client: _Client) -> None:
        self.answered += 1
        self.again += client.used
        self.slowest = max(self.slowest, time.monotonic() - client.started)

    def _expire(self, now: float) -> None:
        while self._clients:
            client = next(iter(self._clients.values()))
            if now - client.started < GIVEN:
                return
            self._lose(client, "no answer in time")

    def _lose(self, client: _Client, how: str) -> None:
        self._drop(client)
        self.losses.append(Loss(client.number, client.used, how, client.data, time.monotonic() - client.started))

    def _drop(self, client: _Client) -> None:
        del self._clients[client.socket.fileno()]
        self._part(client)

    def _part(self, client: _Client) -> None:
        # Closing alone would not do: a server that is being started at this moment holds a copy until its exec.
        try:
            self._epoll.unregister(client.socket)
        except FileNotFoundError:
            pass  # refused at once, and never registered
        client.socket.close()
