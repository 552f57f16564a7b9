"""Clients that keep their connection and repeat nothing, so that what a server loses is lost."""

from __future__ import annotations

import collections
import random
import socket
import threading
import time
from typing import Final

from prefork.testing.client import connect
from prefork.testing.server import Server

PATIENCE: Final = 30.0


class Client:
    """One connection, on which requests are asked one after another.

    Args:
        server: the address of one, or a connection to it.
    """

    def __init__(self, server: str | socket.socket) -> None:
        self.socket = connect(server, timeout=PATIENCE) if isinstance(server, str) else server
        self._stream = self.socket.makefile("rb")
        self.status = 0
        self.fields: dict[str, str] = {}

    @property
    def closes(self) -> bool:
        """Whether the last answer said that it was the last."""
        return self.fields.get("connection") == "close"

    def send(self, payload: bytes) -> None:
        """Send bytes."""
        self.socket.sendall(payload)

    def answer(self) -> bytes | None:
        """The body of the next answer, which has a Content-Length; None when the server has closed before it."""
        line = self._stream.readline()
        if not line:
            return None
        self.status = int(line.split()[1])
        self.fields = {}
        for raw in iter(self._stream.readline, b"\r\n"):
            assert raw, "the answer ended within its head"
            name, _, value = raw.decode("latin-1").partition(":")
            self.fields[name.lower()] = value.strip()
        return self._stream.read(int(self.fields.get("content-length", 0)))

    def ask(self, payload: bytes) -> bytes | None:
        """Send a request, and give its answer's body."""
        self.send(payload)
        return self.answer()

    def over(self) -> bool:
        """Whether the server closes, and sends nothing more."""
        try:
            return self._stream.read() == b""
        except ConnectionResetError:
            return False

    def close(self) -> None:
        """Close it."""
        self._stream.close()
        self.socket.close()


class Crowd:
    """Clients that ask until they are told to stop, half of them with bodies; each answer is compared.

    Args:
        address: a server's that answers with the body of the request.
        clients: how many.
        think: seconds between an answer and the next request, at the most.
        reconnects: whether a client whose connection is at its end makes another.
    """

    def __init__(self, address: str, clients: int, think: float, *, reconnects: bool = True) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        self.losses: list[str] = []
        self._address = address
        self._think = think
        self._reconnects = reconnects
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Have all of them finish, and wait for that."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        chance = random.Random(number)
        while not self._stopped.is_set():
            try:
                client = Client(self._address)
            except OSError:
                self.counts["refused"] += 1
                if not self._reconnects:
                    return
                self._stopped.wait(0.02)
                continue
            self.counts["connections"] += 1
            try:
                self._talk(client, chance)
            finally:
                client.close()
            if not self._reconnects:
                return

    def _talk(self, client: Client, chance: random.Random) -> None:
        while not self._stopped.is_set():
            body = chance.randbytes(chance.randrange(1, 3000)) if chance.random() < 0.5 else b""
            head = f"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n" if body else _GET
            try:
                answer = client.ask(head.encode() + body)
            except OSError as error:
                answer = None
                self.losses.append(f"{time.monotonic():.3f} {type(error).__name__} after {self.counts['answered']}")
            if answer is None:
                self.counts["lost"] += 1
                return
            if client.status != 200:
                self.counts["lost"] += 1
                self.losses.append(f"{client.status} {answer!r}")
                return
            assert answer == body
            self.counts["answered"] += 1
            if client.closes:
                self.counts["closed"] += 1
                return
            self._stopped.wait(chance.random() * self._think)


_GET: Final = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def readable(client: Client, seconds: float) -> bool:
    """Whether something comes within ``seconds``."""
    client.socket.settimeout(seconds)
    try:
        return bool(client.socket.recv(1, socket.MSG_PEEK))
    except TimeoutError:
        return False
    finally:
        client.socket.settimeout(PATIENCE)


def renew(server: Server, signum: int, workers: int = 2) -> None:
    """Have all workers replaced, and wait until the old ones are gone."""
    before = set(server.workers())
    server.signal(signum)
    server.wait_for(
        lambda: not before & set(server.workers()) and len(server.workers()) == workers,
        2 * PATIENCE,
        "the old workers are still there",
    )
