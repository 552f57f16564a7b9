"""Clients of the fleet: a request at every tick, whatever became of those before, and none of them is repeated.

An open loop, because clients that wait for their answers come less often to a server that is slow, and so hide it.
"""

from __future__ import annotations

import asyncio
import collections
import threading
import time
from typing import Self

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]

KEPT = 10.0
"""Seconds for which a connection is kept: less than by HAProxy (timeout client), or a request would meet the close."""


class Clients:
    """Ask until they are told to stop. Runs in a thread of its own.

    Args:
        address: HAProxy's.
        rate: Requests a second.
        keep: Whether connections are kept for a next request.
        patience: Seconds after which a client gives up.

    Attributes:
        answered: How many were answered by 200.
        lost: What became of all others.
        by: The answers, by how many times each was given.
        times: Seconds that the latest answers have taken, from the tick on.
    """

    def __init__(self, address: tuple[str, int], rate: float, *, keep: bool = True, patience: float = 30.0) -> None:
        self.answered = 0
        self.lost: list[str] = []
        self.by: collections.Counter[str] = collections.Counter()
        self.times: collections.deque[float] = collections.deque(maxlen=max(100, int(10 * rate)))
        self._address = address
        self._pause = 1 / rate
        self._keep = keep
        self._patience = patience
        self._idle: list[tuple[float, Connection]] = []
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

    async def _run(self) -> None:
        tick = time.monotonic()
        asking: set[asyncio.Task[None]] = set()
        while not self._over.is_set():
            task = asyncio.create_task(self._ask(tick))
            asking.add(task)
            task.add_done_callback(asking.discard)
            tick += self._pause
            await asyncio.sleep(max(0.0, tick - time.monotonic()))
        if asking:
            await asyncio.wait(asking)
        for _, (_, writer) in self._idle:
            writer.close()

    async def _ask(self, tick: float) -> None:
        try:
            async with asyncio.timeout(self._patience):
                status, body = await self._talk()
        except (OSError, EOFError, ValueError, TimeoutError) as error:
            self.lost.append(f"{type(error).__name__} {error}")
            return
        self.times.append(time.monotonic() - tick)
        if status == 200:
            self.answered += 1
            self.by[body.partition(",")[0]] += 1
        else:
            self.lost.append(f"{status} {body.strip()}")

    async def _talk(self) -> tuple[int, str]:
        reader, writer = self._kept() or await asyncio.open_connection(*self._address)
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
                self._idle.append((time.monotonic(), (reader, writer)))
            else:
                writer.close()
        return int(head.split()[1]), body

    def _kept(self) -> Connection | None:
        """The connection that was used last, if it is not too old."""
        while self._idle:
            since, connection = self._idle.pop()
            if time.monotonic() - since < KEPT:
                return connection
            connection[1].close()
        return None
