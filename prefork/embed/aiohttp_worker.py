"""aiohttp's server.

What it does at its stop (``AppRunner.cleanup``) is what is wanted: idle connections are closed, requests finished, the
application's own shutdown and cleanup run. It takes a connection without a request for an idle one, and from then on it
drops whatever a client sends, the rest of a body too, for which the handler would wait until it is cancelled. So it
comes after every client has been heard, to the end of the bodies that are under way.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

from prefork.embed.loops import AsyncioWorker
from prefork.embed.marks import contained
from prefork.embed.server_options import constructors, parameters

LOOK = 0.02
"""Seconds between two looks at the bodies that are under way."""


class AiohttpWorker(AsyncioWorker):
    """Serves an ``aiohttp.web.Application``, or what a function or coroutine function makes one. WORKER.

    The options are those of ``aiohttp.web.AppRunner``, and ``ssl_context``.
    """

    server = "aiohttp"
    needs = ("aiohttp.web", "aiohttp")
    reserved: ClassVar[Mapping[str, str]] = {
        "handle_signals": "signals are prefork's",
        "backlog": "prefork listens; give the setting",
    }

    def known_options(self) -> Mapping[str, object]:
        """As in `Embedded`."""
        web = self.installed("aiohttp.web", "aiohttp")
        return parameters(*constructors(web.AppRunner), web.Server.__init__, web.RequestHandler.__init__) | {
            "loop": str,
            "ssl_context": object,
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
        if not application.frozen:
            application.middlewares.insert(0, web.middleware(_contained))
        with self.options_tried():
            self._runner_of_sites = web.AppRunner(application, **options)
        await self._runner_of_sites.setup()
        for inlet in self.open_inlets():
            await web.SockSite(self._runner_of_sites, inlet, ssl_context=tls).start()

    async def serve(self) -> None:
        """Serve until told to leave, then let aiohttp finish."""
        await self.told_to_leave()
        while any(map(_has_more_to_send, self._runner_of_sites.server.connections)):
            await asyncio.sleep(LOOK)
        await self._runner_of_sites.cleanup()


async def _contained(request: Any, handler: Any) -> Any:
    """The outermost middleware: what would end the loop is an exception like others, which aiohttp answers."""
    with contained():
        return await handler(request)


def _has_more_to_send(connection: Any) -> bool:
    """Whether a request's body is under way. aiohttp says nowhere else than in this attribute what is in hand."""
    request = connection._current_request  # noqa: SLF001  # as said above
    return request is not None and not request.content.is_eof()
