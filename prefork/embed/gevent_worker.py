"""gevent's WSGI server.

gevent is imported, and the standard library patched, after the fork and before the application is loaded: a hub that
was made in the master would be shared, and what the application imports must be patched already. A Pool lets the
server wait at its stop for what is in hand; a connection that is kept alive would be waited for as well, so it is ended
when it is idle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, Literal

from prefork.accept.offspring import guarded
from prefork.embed.base import Embedded
from prefork.embed.marks import Marked
from prefork.embed.server_options import constructors, parameters

CONNECTIONS = 1000
"""How many connections a worker serves at a time, unless ``connections`` says so."""


_TLS: Final = frozenset(
    {"keyfile", "certfile", "ca_certs", "cert_reqs", "ciphers", "ssl_context", "ssl_version"}
    | {"do_handshake_on_connect", "server_hostname", "server_side", "suppress_ragged_eofs"}
)
"""What gevent takes for TLS beside the names of its parameters."""

_KINDS: Final[Mapping[str, object]] = {
    **dict.fromkeys(("log", "error_log"), Literal["default"]),
    "handler_class": type,
    "environ": dict,
    "connections": int,
    "patch": bool,
}
"""Of those that its own parameters say nothing of, and of ours."""


class GeventWorker(Embedded):
    """Serves a WSGI application with ``gevent.pywsgi.WSGIServer``, whose options are taken. WORKER.

    ``connections`` limits how many are served at a time. ``patch=False`` leaves the standard library as it is.
    """

    server = "gevent"
    needs = ("gevent.pywsgi", "gevent")
    reserved: ClassVar[Mapping[str, str]] = {
        "listener": "prefork listens; give the setting bind",
        "backlog": "prefork listens; give the setting",
        "spawn": "a pool is needed to wait for what is in hand; give connections, its size",
    }

    def known_options(self) -> Mapping[str, object]:
        """As in `Embedded`."""
        server = self.installed("gevent.pywsgi", "gevent").WSGIServer
        return {**dict.fromkeys(_TLS, Any), **parameters(*constructors(server)), **_KINDS}

    def init(self) -> None:
        """Patch, load the application, make a server on each inlet."""
        super().init()
        # In a child its own greenlet waits in the same hub; the one that would end the worker must not run there.
        self._given.offspring.silent = True
        options = self.options
        if options.pop("patch", True):
            self.installed("gevent.monkey", "gevent").patch_all()
        self._gevent = self.installed("gevent")
        self._pool = self.installed("gevent.pool").Pool(options.pop("connections", CONNECTIONS))
        # It also makes the server accept one connection at a turn.
        options["environ"] = {"wsgi.multiprocess": True, **(options.get("environ") or {})}
        server_class = self.installed("gevent.pywsgi").WSGIServer
        application = Marked(self.application(), guarded)
        with self.options_tried():
            self._servers: list[Any] = [
                server_class(inlet, application, spawn=self._pool, **options) for inlet in self.inlets()
            ]

    def run(self) -> None:
        """Serve until it is time to leave, then until no connection is left."""
        self._mark()
        for server in self._servers:
            server.start()
        wait_read = self.installed("gevent.socket").wait_read
        while not self.stopping:
            self._outlasting(wait_read, self.stop_fd)
        for waiting in (self.connections.unread, self.connections.hang_up):
            for pause in waiting():
                self._outlasting(self._gevent.sleep, pause)
        for server in self._servers:
            while not self._outlasting(server.stop, self.settings.graceful_timeout):
                pass

    def _outlasting(self, wait: Callable[..., object], *given: object) -> bool:
        """Wait, whatever a greenlet raises meanwhile that is no request's; whether the wait has come to its end."""
        try:
            wait(*given)
        except (SystemExit, KeyboardInterrupt) as error:
            self.outlive(error)
            return False
        return True

    def _mark(self) -> None:
        """The hub's loop is idle while it waits; last before that, and first after, whatever else is to be done."""
        loop, pause = self._gevent.get_hub().loop, self.idle()
        self._before, self._after = loop.prepare(), loop.check()
        self._before.priority, self._after.priority = loop.MINPRI, loop.MAXPRI
        self._before.start(pause.__enter__)
        self._after.start(pause.__exit__)
