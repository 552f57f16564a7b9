"""aiohttp's server.

What it does at its stop (``AppRunner.cleanup``) is what is wanted: idle connections are closed, requests finished, the
application's own shutdown and cleanup run. It takes a connection without a request for an idle one, so it comes after
every client has been heard.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import ClassVar

from prefork.embed.loops import AsyncioWorker


class AiohttpWorker(AsyncioWorker):
    """Serves an ``aiohttp.web.Application``, or what a function or coroutine function makes one. WORKER.

    The options are those of ``aiohttp.web.AppRunner``, and ``ssl_context``.
    """

    server = "aiohttp"
    reserved: ClassVar[Mapping[str, str]] = {
        "handle_signals": "signals are prefork's",
        "backlog": "prefork listens; give the setting",
    }

    async def boot(self) -> None:
        """Start the application, then a site on each inlet."""
        web = self.installed("aiohttp.web", "aiohttp")
        application = self.application()
        if not isinstance(application, web.Application):
            application = application()
        if inspect.isawaitable(application):
            application = await application
        options = self.options
        tls = options.pop("ssl_context", None)
        self._runner_of_sites = web.AppRunner(application, **options)
        await self._runner_of_sites.setup()
        for inlet in self.open_inlets():
            await web.SockSite(self._runner_of_sites, inlet, ssl_context=tls).start()

    async def serve(self) -> None:
        """Serve until told to leave, then let aiohttp finish."""
        await self.told_to_leave()
        await self._runner_of_sites.cleanup()
