"""Clients of the fleet: a request at every tick, whatever became of those before, and none of them is repeated.

An open loop, because clients that wait for their answers come less often to a server that is slow, and so hide it.
"""

from __future__ import annotations

import asyncio
import collections
import random
import threading
import time
from dataclasses import dataclass
from typing import Self

KEPT = 10.0
"""Seconds for which a connection is kept: less than by HAProxy (timeout client), or a request would meet the close."""


@dataclass
class Connection:
    """One connection to HAProxy.

    Attributes:
        reader: What comes.
        writer: What goes.
        answers: How many have come.
        since: When the last did, or when it was opened (monotonic seconds).
    """

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    answers: int
    since: float


class Clients:
    """Ask until they are told to stop. Runs in a thread of its own.

    Args:
        address: HAProxy's.
        rate: Requests a second.
        keep: Whether connections are kept for a next request.
        patience: Seconds after which a client gives up.
        at_random: Whether they come at random moments, as clients do who know nothing of each other.

    Attributes:
        answered: How many were answered by 200.
        lost: What became of all others: after how many seconds, on which connection, and how.
        by: The answers, by how many times each was given.
        times: Seconds that the latest answers have taken, from the tick on.
    """

    def __init__(
        self,
        address: tuple[str, int],
        rate: float,
        *,
        keep: bool = True,
        patience: float = 30.0,
        at_random: bool = False,
    ) -> None:
        self.answered = 0
        self.lost: list[str] = []
        self.by: collections.Counter[str] = collections.Counter()
        self.times: collections.deque[float] = collections.deque(maxlen=max(100, int(10 * rate)))
        self._address = address
        self._rate = rate
        self._at_random = at_random
        self._keep = keep
        self._patience = patience
        self._idle: list[Connection] = []
        self._began = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ask no more, and wait for the answers that are to come."""
        self._over.set()
        self._thread.join()

    def slowest(self, share: float = 0.99) -> float:
        """Seconds within which that share of the latest answers came."""
        times = sorted(self.times)
        return times[min(len(times) - 1, int(share * len(times)))] if times else 0.0

    def forget(self) -> None:
        """Count and time from now on, all that come."""
        self.answered = 0
        self.by.clear()
        self.times = collections.deque()

    async def _run(self) -> None:
        tick = self._began = time.monotonic()
        asking: set[asyncio.Task[None]] = set()
        while not self._over.is_set():
            task = asyncio.create_task(self._ask(tick))
            asking.add(task)
            task.add_done_callback(asking.discard)
            tick += random.expovariate(self._rate) if self._at_random else 1 / self._rate
            await asyncio.sleep(max(0.0, tick - time.monotonic()))
        if asking:
            await asyncio.wait(asking)
        for connection in self._idle:
            connection.writer.close()

    async def _ask(self, tick: float) -> None:
        asked = time.monotonic()
        connection = self._kept()
        on = "a new connection"
        if connection is not None:
            on = f"one with {connection.answers} answers, the last {asked - connection.since:.3f} s before"
        try:
            async with asyncio.timeout(self._patience):
                status, body = await self._talk(connection)
        except (OSError, EOFError, ValueError, TimeoutError) as error:
            self._lose(asked, on, f"{type(error).__name__} {error}")
            return
        self.times.append(time.monotonic() - tick)
        if status == 200:
            self.answered += 1
            self.by[body.partition(",")[0]] += 1
        else:
            self._lose(asked, on, f"{status} {body.strip()}")

    def _lose(self, asked: float, on: str, how: str) -> None:
        after = time.monotonic() - asked
        self.lost.append(f"at {asked - self._began:.3f} s on {on}: {how} after {after:.3f} s")

    async def _talk(self, connection: Connection | None) -> tuple[int, str]:
        if connection is None:
            connection = Connection(*await asyncio.open_connection(*self._address), 0, time.monotonic())
        reader, writer = connection.reader, connection.writer
        kept = False
        try:
            wanted = "keep-alive" if self._keep else "close"
            writer.write(f"GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: {wanted}\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
            body = (await reader.readexactly(length)).decode()
            kept = self._keep and "connection: close" not in head
        finally:
            if kept:
                connection.answers += 1
                connection.since = time.monotonic()
                self._idle.append(connection)
            else:
                writer.close()
        return int(head.split()[1]), body

    def _kept(self) -> Connection | None:
        """The connection that was used last, if it is not too old."""
        while self._idle:
            connection = self._idle.pop()
            if time.monotonic() - connection.since < KEPT:
                return connection
            connection.writer.close()
        return None
