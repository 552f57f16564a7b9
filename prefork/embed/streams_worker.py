"""asyncio's own streams: a coroutine function of reader and writer, as for `asyncio.start_server`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import ClassVar

from prefork.embed.loops import AsyncioWorker


class StreamsWorker(AsyncioWorker):
    """Calls ``application(reader, writer)`` for each connection; the writer is closed afterwards. WORKER.

    When it is told to leave, a conversation in which the server spoke last ends: the reader meets the end of the
    stream (``b""``). One in which the client spoke last is answered first.
    """

    server = "asyncio"
    reserved: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("host", "port", "sock", "family", "flags", "reuse_address", "reuse_port", "backlog", "start_serving"),
        "prefork listens; give the setting",
    )

    async def boot(self) -> None:
        """Start a server on each listener."""
        self._callback = self.application()
        self._conversations: set[asyncio.Task[None] | None] = set()
        self._servers = [
            await asyncio.start_server(self._talk, sock=inlet, **self.options) for inlet in self.open_inlets()
        ]

    async def serve(self) -> None:
        """Serve until told to leave, and then until every conversation has ended."""
        await self.told_to_leave()
        for server in self._servers:
            server.close()
        for pause in self.connections.hang_up():
            await asyncio.sleep(pause)
        while self._conversations:
            await asyncio.wait([task for task in self._conversations if task is not None])

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._conversations.add(task)
        try:
            await self._callback(reader, writer)
        except Exception:  # the worker outlives whatever a handler does
            self.log.exception("the handler failed on a connection from %s", writer.get_extra_info("peername"))
        finally:
            self._conversations.discard(task)
            writer.close()
