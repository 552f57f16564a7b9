"""hypercorn.

It makes its listening sockets when the application has started up, and so that is when inlets are given to it. Its
``graceful_timeout`` (3 s) cancels what is in hand; here it is that of prefork, unless it is given.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

from prefork.embed.loops import AsyncioWorker
from prefork.embed.marks import among_others, contained_asgi
from prefork.embed.server_options import attributes

_LISTENS = "prefork listens; give the setting bind"
_RUNS = "prefork runs the processes; give the setting"


class HypercornWorker(AsyncioWorker):
    """Serves an ASGI or WSGI application with hypercorn; the options are attributes of ``hypercorn.Config``. WORKER."""

    server = "hypercorn"
    needs = ("hypercorn.config", "hypercorn")
    reserved: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("bind", "insecure_bind", "quic_bind"), _LISTENS),
        **dict.fromkeys(("workers", "worker_class", "backlog", "use_reloader", "pid_path", "umask"), _RUNS),
        **dict.fromkeys(("user", "group"), "give the setting of the same name, or socket_user and socket_group"),
        "max_requests": "a replacement has to be ready first; give the setting max_requests",
        "max_requests_jitter": "give the setting max_requests_jitter",
    }

    def known_options(self) -> Mapping[str, object]:
        """As in `Embedded`."""
        return attributes(self.installed("hypercorn.config").Config) | {"loop": str, "mode": str | None}

    async def boot(self) -> None:
        """Start hypercorn and wait until the application has started up (lifespan)."""
        serve = self.installed("hypercorn.asyncio").serve
        listening = asyncio.get_running_loop().create_future()
        options = self.options
        application, mode = self.application(), options.pop("mode", None)
        if mode is None:
            mode = "asgi" if _is_asgi(application) else "wsgi"
        contained = contained_asgi(application) if mode == "asgi" else among_others(application)
        config = self._config(options, listening)
        self._serving = asyncio.create_task(
            serve(contained, config, shutdown_trigger=self.told_to_leave, mode=mode),
        )
        await asyncio.wait((self._serving, listening), return_when=asyncio.FIRST_COMPLETED)
        if self._serving.done():
            self._serving.result()

    async def serve(self) -> None:
        """Wait until hypercorn has ended."""
        await self._serving

    def _config(self, options: dict[str, Any], listening: asyncio.Future[None]) -> Any:
        module = self.installed("hypercorn.config")
        inlets = list(self.open_inlets())

        class Config(module.Config):  # type: ignore[misc,name-defined]  # hypercorn is imported at run time
            """hypercorn's, with our listeners."""

            def create_sockets(self) -> Any:
                if not listening.done():
                    listening.set_result(None)
                secure = self.ssl_enabled
                return module.Sockets(inlets if secure else [], [] if secure else inlets, [])

        config = Config()
        config.graceful_timeout = self.settings.graceful_timeout
        with self.options_tried():
            for name, value in options.items():
                setattr(config, name, value)
        return config


def _is_asgi(application: Any) -> bool:
    """As hypercorn tells one."""
    return inspect.iscoroutinefunction(application) or inspect.iscoroutinefunction(
        getattr(application, "__call__", None)  # noqa: B004  # it is asked what kind it is, not whether there is one
    )
