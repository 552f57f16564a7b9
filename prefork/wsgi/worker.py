"""The worker that serves a WSGI application, and the ways to run a server of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Final

from prefork.accept.parked_connections import NEW
from prefork.config.fields import located
from prefork.config.settings import Settings
from prefork.errors import SettingsError
from prefork.hooks import Hooks
from prefork.master import Master
from prefork.net.proxy_protocol import ProxyHeader
from prefork.net.proxy_reader import EagerProxyReader, ProxyReader
from prefork.scoreboard.entry import RecorderOfThread
from prefork.scoreboard.layout import READINESS, Readiness
from prefork.system.natives import os, socket
from prefork.system.record import changed
from prefork.system.zone import find as find_zone
from prefork.worker import Worker
from prefork.wsgi.common import Common
from prefork.wsgi.gateway import Application, Gateway
from prefork.wsgi.health import HealthCheck
from prefork.wsgi.options import DEFAULTS, WSGIOptions
from prefork.wsgi.refusal import NothingYetError

if TYPE_CHECKING:
    from prefork.accept.worker_context import MoldContext
    from prefork.scoreboard.recorder import FlightRecorder
    from prefork.services.statsd import Statsd


_DELAYED: Final = int(Readiness.DELAYED)


class WSGIWorker(Worker):
    """Serves one request at a time in each thread, on connections that are kept. Made by `serving`. WORKER.

    The setting ``timeout`` limits the application alone: while the worker waits for a client, ``header_timeout``,
    ``io_timeout`` and ``min_rate`` hold.

    Args:
        application: What PEP 3333 calls an application.
        options: Limits and forms.
        common: What the workers have in common.
    """

    handshakes: ClassVar[bool] = False  # the service does it, with the patience that it has for a request
    timeouts: ClassVar[bool] = False  # it waits with limits of its own, and only where it has to
    labels: ClassVar[bool] = True

    start = ""
    """Where the server was started: relative paths of the options begin there, or in ``chdir`` from there."""

    def __init__(self, application: Application, options: WSGIOptions, common: Common) -> None:
        self._application = application
        self._options = options
        self.common = common
        self.located: dict[str, WSGIOptions] = {}
        self._asked: tuple[str, ...] = ()

    @property
    def wsgi(self) -> Application:
        """The application, by the name that gunicorn's hooks know it by."""
        return self._application

    def __prefork_check__(self, settings: Settings) -> None:
        """As in `Worker`."""
        from prefork.wsgi import access

        super().__prefork_check__(settings)
        access.check(self._options.access_log)

    def __prefork_mold__(self, given: MoldContext) -> None:
        """As in `Worker`."""
        self._asked = given.asked
        super().__prefork_mold__(given)

    def warm(self) -> None:
        """Have the application answer what ``warmup`` says, and what workers before were asked for most."""
        self._located()
        gateway = Gateway(  # whatever it makes of the options is there for all workers then
            self._application,
            changed(self._options, access_log="", check_client_connection=False),
            io_timeout=self.settings.io_timeout,
            common=self.common,
        )
        if not (self._options.warmup or self._asked):
            return
        from prefork.wsgi import warmup

        def serve(connection: socket.socket) -> None:
            gateway.serve_connection(connection, "")

        warmup.play(self._options.warmup, serve, self.log)
        if self._asked:
            warmup.repeat(self._asked, self._options.warmup, serve, self.log)

    def _located(self) -> WSGIOptions:
        """The options with whole paths, made once for all workers where there is a mold."""
        folder = os.path.join(self.start, self.settings.chdir)
        if folder not in self.located:
            self.located[folder] = located(self._options, folder)
        return self.located[folder]

    def init(self) -> None:
        """Open what requests need."""
        # The application is given no connection, and a child's answer is one too many.
        self._given.offspring.keeps = False
        self._header = self._entry.board.words
        self._gateway = Gateway(
            self._application,
            self._located(),
            sockets=self.sockets,
            io_timeout=self.settings.io_timeout,
            tls=self.tls,
            waiting=self._put_off if self.settings.timeout else None,
            keepalive=self.settings.keepalive,
            common=self.common,
            recorder=self._recorder(),
            queued=self._entry.lane.say_waited if self.settings.threads == 1 else self._entry.say_waited,
            shed=self._entry.count_refused_in_hand,
            health=HealthCheck(self._options.health_path, self._readiness) if self._options.health_path else None,
            zone=find_zone(self.settings.log_timezone, self.common.tz),
            statsd=self._statsd(),
            threads=self.settings.threads > 1,
        )

    def _statsd(self) -> Statsd | None:
        if not self.settings.statsd_host:
            return None
        from prefork.services.statsd import Statsd

        return Statsd.of(self.settings)

    def _recorder(self) -> FlightRecorder | None:
        recorder = self._entry.lane.recorder
        return recorder if recorder is None or self.settings.threads == 1 else RecorderOfThread(self._entry)

    @property
    def _header_patience(self) -> float:
        return self._options.header_timeout or math.inf

    @property
    def _proxy_reader(self) -> type[ProxyReader]:
        return EagerProxyReader if self.tls is None else ProxyReader  # OpenSSL takes from the socket itself

    def _introduction(self, connection: socket.socket) -> tuple[ProxyHeader | None, bytes]:
        """What a proxy has said of a new connection, and what came behind that and was taken along."""
        if self._proxies is None:
            return None, b""
        return self.proxy_of(connection), self._proxies.ahead.pop(connection.fileno(), b"")

    def handle(self, connection: socket.socket, address: Any) -> None:
        """Serve one request."""
        parking, serve = self._parking, self._gateway.serve_connection
        if parking is None:
            proxy, ahead = self._introduction(connection)
            serve(connection, address, received=ahead, proxy=proxy)
            return
        one = parking.in_hand
        assert one is not None  # see prefork.accept.keepalive_handle
        proxy, ahead = self._introduction(connection) if one is NEW else (one.proxy, one.state)
        keeps = not parking.last() and self._header[READINESS] != _DELAYED
        asked = True
        try:
            channel = serve(
                connection, address, keeps=keeps, before=one.local, received=ahead, seen=one.seen, proxy=proxy
            )
        except NothingYetError as nothing:
            channel, asked = nothing.channel, False
        if channel is not None:
            secured = channel.secured
            bound = secured is not None
            parking.park(
                secured or connection, address, channel.rest, ready=channel.buffered, local=channel, bound=bound
            )
        elif not asked:  # it is to be TLS, and no hands were shaken
            parking.park(connection, address, b"", ready=False)
        if not asked:
            parking.unasked()
            self._entry.unasked()

    def refuse(self, connection: socket.socket) -> None:
        """Answer 503 to a connection that is shed."""
        self._gateway.refuse(connection)

    def exit(self) -> None:
        """Close the access log."""
        self._gateway.close()


def serving(application: Application, options: WSGIOptions, common: Common | None = None) -> Callable[[], WSGIWorker]:
    """What makes the workers of a `prefork.Master` that serves ``application``.

    Args:
        application: What PEP 3333 calls an application.
        options: Limits and forms.
        common: What the workers have in common, where this is called in each of them; else it is made here.

    Raises:
        TypeError: ``application`` can't be called.
    """
    if not callable(application):
        raise TypeError(f"the application is {type(application).__name__}, which can't be called")
    common = common or Common()
    by_folder: dict[str, WSGIOptions] = {}
    start = os.getcwd() if located(options, "/") != options else ""  # what the application makes of it is another's

    def build() -> WSGIWorker:
        worker = WSGIWorker(application, options, common)
        worker.start, worker.located = start, by_folder
        return worker

    return build


def serve(
    application: Application, *, options: WSGIOptions | None = None, hooks: Hooks | None = None, **given: Any
) -> int:
    """Serve a WSGI application until a signal ends it. Runs in the process that becomes the master, in its main thread.

    Args:
        application: What PEP 3333 calls an application; loaded in the master, as with ``preload``.
        options: Limits and forms.
        hooks: What to call at points in the server's life.
        given: `prefork.Settings` by name; unless given, ``timeout`` and ``io_timeout`` are 30 seconds,
            ``keepalive`` is 75 and ``defer_accept`` 5 seconds, and ``preload`` is on.

    Returns:
        0, after a stop that was asked for.

    Raises:
        TypeError: ``application`` can't be called.
        PreforkError: As `prefork.Master.run` does; SettingsError for settings that can't be used.
    """
    options = options or WSGIOptions()
    if options.warmup:
        raise SettingsError("warmup: this program has loaded the application by itself, and has no mold; leave it out")
    build = serving(application, options)
    return Master(build, Settings.of({"preload": True, **DEFAULTS, **given}), hooks=hooks).run()
