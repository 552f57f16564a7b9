"""tornado's HTTP server.

Its ``close_all_connections`` closes them in the middle of an answer too. So what each connection is at is followed
here: idle from the moment at which tornado begins to wait for a request until the request's headers have come. When the
worker leaves, no connection is kept alive any more, those that are idle are closed, the others are waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, ClassVar

from prefork.config.interface import interface_of
from prefork.embed.loops import AsyncioWorker
from prefork.embed.server_options import parameters

LOOK = 0.02
"""Seconds between two looks at the connections that are left."""


class TornadoWorker(AsyncioWorker):
    """Serves a ``tornado.web.Application``, or any request callback, by ``tornado.httpserver.HTTPServer``. WORKER.

    A WSGI application is served in its ``WSGIContainer``, one request at a time. The options are the HTTPServer's.
    """

    server = "tornado"
    needs = ("tornado.httpserver", "tornado")
    reserved: ClassVar[Mapping[str, str]] = {"backlog": "prefork listens; give the setting"}

    def known_options(self) -> Mapping[str, object]:
        """As in `Embedded`."""
        return parameters(self.installed("tornado.httpserver").HTTPServer.initialize) | {"loop": str}

    async def boot(self) -> None:
        """Start a server on the inlets."""
        httpserver, httputil = self.installed("tornado.httpserver"), self.installed("tornado.httputil")
        at: dict[Any, bool] = {}

        class Followed(httputil.HTTPMessageDelegate):  # type: ignore[misc,name-defined]  # imported at run time
            """One request's delegate, and what its connection is at."""

            def __init__(self, delegate: Any, connection: Any) -> None:
                self.delegate = delegate
                self.connection = connection

            def headers_received(self, start_line: Any, headers: Any) -> Any:
                at[self.connection] = True
                return self.delegate.headers_received(start_line, headers)

            def data_received(self, chunk: bytes) -> Any:
                return self.delegate.data_received(chunk)

            def finish(self) -> None:
                self.delegate.finish()

            def on_connection_close(self) -> None:
                self.delegate.on_connection_close()

        class FollowedServer(httpserver.HTTPServer):  # type: ignore[misc,name-defined]  # imported at run time
            """tornado's, followed."""

            def start_request(self, server_conn: Any, request_conn: Any) -> Any:
                at[server_conn] = False
                return Followed(super().start_request(server_conn, request_conn), server_conn)

            def on_close(self, server_conn: Any) -> None:
                at.pop(server_conn, None)
                super().on_close(server_conn)

        options = self.options
        self._at = at
        application = self.application()
        if interface_of(application) == "wsgi":  # as with gunicorn; what has two arguments answers nobody here
            application = self.installed("tornado.wsgi").WSGIContainer(application)
        with self.options_tried():
            self._server = FollowedServer(application, **options)
        self._server.add_sockets(self.open_inlets())

    async def serve(self) -> None:
        """Serve until told to leave, then until no connection is left."""
        await self.told_to_leave()
        self._server.conn_params.no_keep_alive = True
        self._server.stop()
        while self._at:
            for connection in [connection for connection, busy in self._at.items() if not busy]:
                await connection.close()
            await asyncio.sleep(LOOK)
