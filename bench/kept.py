"""Clients that keep their connections, as browsers and proxies do: who is answered, who is lost, who is closed.

Each is polite: before a request it looks whether the server has closed meanwhile (RFC 9112, 9.3.1), and whoever was
told ``Connection: close`` comes back on another. It never repeats a request, so one that ends without an answer is
lost. A connection that the server ends between two requests is closed: nobody is lost by it, but who asks just then is.
"""

from __future__ import annotations

import random
import select
import threading
from collections import Counter
from http.client import HTTPConnection, HTTPException
from types import TracebackType
from typing import Final, Self

PATIENCE: Final = 10.0
"""Seconds that a client waits for its answer."""


class KeptClients:
    """Clients in threads of their own, for the block.

    Args:
        address: the server's, HOST:PORT.
        clients: how many.
        think: seconds between an answer and the next request, at the most.
        returns: whether who is closed comes back on another connection.

    Attributes:
        counts: "answered", "lost", "closed", "refused".
    """

    def __init__(self, address: str, clients: int, think: float, *, returns: bool = True) -> None:
        self.counts: Counter[str] = Counter()
        host, _, port = address.rpartition(":")
        self._host, self._port = host, int(port)
        self._think = think
        self._returns = returns
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._live, args=(random.Random(seed),)) for seed in range(clients)]

    def __enter__(self) -> Self:
        """Let them come."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let all of them finish what they are at."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _live(self, chance: random.Random) -> None:
        while not self._over.is_set():
            connection = HTTPConnection(self._host, self._port, timeout=PATIENCE)
            try:
                connection.connect()
            except OSError:
                self.counts["refused"] += 1
                self._over.wait(0.02)
            else:
                self._stay(connection, chance)
            finally:
                connection.close()
            if not self._returns:
                return

    def _stay(self, connection: HTTPConnection, chance: random.Random) -> None:
        """One connection, until somebody ends it."""
        while not self._over.is_set():
            if _ended(connection):
                self.counts["closed"] += 1
                return
            try:
                body = chance.choice([None, b"x" * 1000])
                connection.request("GET" if body is None else "POST", "/", body)
                answer = connection.getresponse()
                if answer.read() != b"hello\n" or answer.status != 200:
                    raise HTTPException("that is another answer")
            except (OSError, HTTPException):
                self.counts["lost"] += 1
                return
            self.counts["answered"] += 1
            if answer.will_close:
                self.counts["closed"] += 1
                return
            self._over.wait(chance.random() * self._think)


def _ended(connection: HTTPConnection) -> bool:
    """Whether the server has closed: nothing else may come between two requests."""
    return bool(select.select([connection.sock], [], [], 0.0)[0])
