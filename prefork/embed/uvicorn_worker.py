"""uvicorn.

It takes SIGTERM for itself and ends by raising it again; here it takes no signals, and is stopped by ``should_exit``,
at which its main loop looks ten times a second. Its own stop closes whatever has no request yet, so it comes after
every client has been heard.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import ClassVar

from prefork.embed.loops import AsyncioWorker
from prefork.embed.server_options import parameters
from prefork.errors import BootError

_LISTENS = "prefork listens; give the setting bind"
_RUNS = "prefork runs the processes; give the setting"


class UvicornWorker(AsyncioWorker):
    """Serves an ASGI application with uvicorn; the options are those of ``uvicorn.Config``. WORKER."""

    handshakes = False  # the loop does them, with the server's own certificate
    server = "uvicorn"
    needs = ("uvicorn", "")
    loop = "auto"
    reserved: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("host", "port", "uds", "fd"), _LISTENS),
        **dict.fromkeys(("workers", "backlog", "timeout_worker_healthcheck"), _RUNS),
        **dict.fromkeys(("reload", "reload_dirs", "reload_delay", "reload_includes", "reload_excludes"), _RUNS),
        "limit_max_requests": "a replacement has to be ready first; give the setting max_requests",
        "limit_max_requests_jitter": "give the setting max_requests_jitter",
    }

    def known_options(self) -> Mapping[str, object]:
        """As in `Embedded`."""
        return parameters(self.installed("uvicorn").Config)

    async def boot(self) -> None:
        """Let the application start up (lifespan), then start on the inlets."""
        uvicorn = self.installed("uvicorn")
        application = self.application()
        with self.options_tried():
            config = uvicorn.Config(application, **self.options)
        if config.factory:
            config.load()  # which calls it
        else:
            with self.options_tried():
                config.load()
        if self.tls is not None:
            config.ssl = self.tls
        server = self._server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        self._inlets = list(self.open_inlets())
        try:
            await server.startup(sockets=self._inlets)
        except SystemExit:
            server.started = False  # how newer ones say it
        if not server.started:
            raise BootError("the application's lifespan startup failed; uvicorn has logged why")

    async def serve(self) -> None:
        """Run uvicorn's main loop, then its shutdown."""
        server = self._server
        leaving = asyncio.create_task(self.told_to_leave())
        leaving.add_done_callback(lambda _: setattr(server, "should_exit", True))
        await server.main_loop()
        await server.shutdown(sockets=self._inlets)
