"""asyncio's own streams: a coroutine function of reader and writer, as for `asyncio.start_server`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import ClassVar

from prefork.accept.offspring import leave
from prefork.embed.loops import AsyncioWorker
from prefork.embed.server_options import parameters
from prefork.system.natives import os, socket


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

    def known_options(self) -> Mapping[str, object]:
        """As in `Embedded`."""
        return parameters(asyncio.start_server, asyncio.BaseEventLoop.create_server) | {"loop": str}

    async def boot(self) -> None:
        """Start a server on each listener."""
        self._callback = self.application()
        self._conversations: dict[asyncio.Task[None] | None, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}
        self._servers = [
            await asyncio.start_server(self._talk, sock=inlet, **self.options) for inlet in self.open_inlets()
        ]

    async def serve(self) -> None:
        """Serve until told to leave, and then until every conversation has ended."""
        await self.told_to_leave()
        for server in self._servers:
            server.close()
        hang_up = self.connections.hang_up
        for pause in hang_up(self._end_secured) if self.options.get("ssl") else hang_up():
            await asyncio.sleep(pause)
        while self._conversations:
            await asyncio.wait([task for task in self._conversations if task is not None])

    def _end_secured(self, connection: socket.socket) -> None:
        """End what is to be read; shut down for reading, TLS would end the answer that is being sent as well."""
        wanted = os.fstat(connection.fileno()).st_ino
        for reader, writer in self._conversations.values():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                if os.fstat(writer.get_extra_info("socket").fileno()).st_ino == wanted:
                    writer.transport.pause_reading()  # type: ignore[attr-defined]  # typed as one to write to only
                    reader.feed_eof()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._conversations[task] = reader, writer
        try:
            await self._callback(reader, writer)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # the worker, and what else it has in hand, outlives a handler
            leave(error)
            self.log.exception("the handler failed on a connection from %s", writer.get_extra_info("peername"))
        finally:
            del self._conversations[task]
            writer.close()
