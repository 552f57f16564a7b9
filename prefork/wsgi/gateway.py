"""The life of one request: read, given to the application, answered, logged.

A `Gateway` knows nothing of workers. Whoever accepts connections calls `Gateway.serve_connection` with each, one at a
time in each thread, and closes it at once afterwards; `prefork.wsgi.WSGIWorker` is one who does.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import math
import tempfile
from collections.abc import Callable, Iterable
from typing import IO, TYPE_CHECKING, Any, Final

from prefork.accept.offspring import leave
from prefork.config.networks import truster
from prefork.net.proxy_protocol import ProxyHeader
from prefork.net.tls import DEPARTED, HandshakeError, departed
from prefork.system.descriptors import readable
from prefork.system.natives import socket, time
from prefork.system.peer import format_peer
from prefork.system.throttle import Throttle
from prefork.wsgi.body import Body, open_body, spool
from prefork.wsgi.channel import RECEIVE, Channel, Pace
from prefork.wsgi.common import Common
from prefork.wsgi.environ import base_environ, peer_name, server_name, set_proxy, set_target, spelled
from prefork.wsgi.forwarded import BELIEVED, ELSEWHERE, standings
from prefork.wsgi.forwarded import apply as apply_forwarded
from prefork.wsgi.heads import HeadFields, Heads
from prefork.wsgi.health import UNLOGGED, HealthCheck
from prefork.wsgi.options import WSGIOptions
from prefork.wsgi.overload import Overload
from prefork.wsgi.parser import CHUNKED, check_strictness, read_head, without_empty_lines
from prefork.wsgi.refusal import ClientGoneError, NothingYetError, RequestError, answer
from prefork.wsgi.response import Response
from prefork.wsgi.silence import Silence
from prefork.wsgi.strangers import Strangers
from prefork.wsgi.tls import PlainHTTPError, TLSChannel

if TYPE_CHECKING:
    import ssl
    from datetime import tzinfo

    from prefork.scoreboard.recorder import FlightRecorder
    from prefork.services.statsd import Statsd
    from prefork.wsgi.access import Account

Application = Callable[[dict[str, Any], Callable[..., Callable[[bytes], None]]], Iterable[bytes]]
"""What PEP 3333 calls an application."""

DRAINED: Final = 1 << 16
"""Bytes of a body that an application may leave unread on a connection that is kept."""

_LATELY: Final = 0.004  # seconds for which nobody asks again whether a client is there, nor for how long it waits
_UNKNOWN: Final = -1  # milliseconds
_MARGIN: Final = 5.0  # seconds that clients are told less than for how long a connection is kept

log = logging.getLogger("prefork")


class Gateway:
    """Serves an application's requests: one after the other, or several at once, each in a thread of its own.

    Args:
        application: The WSGI application.
        options: Limits and forms.
        sockets: The listening sockets. The name of a single one with an address of its own is taken once; else that
            of each connection is asked for.
        io_timeout: Seconds that a client may make a send or receive wait; 0 for no limit.
        tls: From `prefork.net.tls.context_of`; None for plain HTTP.
        waiting: Told before each wait for a client how many seconds it may last at most, infinity included, and 0 when
            it is over, so that a limit of the worker's busy time can be put off for the client's part of it.
        keepalive: For how many seconds a connection is kept, which clients are told.
        common: What all processes that serve have in common; None makes one.
        recorder: Notes each request, without its query.
        queued: Is told of each request for how many milliseconds it had waited to be taken, where that is known.
        shed: Is told of each request that is refused because it has waited for too long.
        zone: Whose time of day the access log has; None is UTC.
        statsd: Is told of each request; closed with the gateway.
        threads: Whether several threads serve requests by it at once.
        health: Answers on a path of its own; None when there is none.

    Raises:
        PreforkError: The installed httptools is not safe, or the access log can't be opened.
    """

    def __init__(
        self,
        application: Application,
        options: WSGIOptions | None = None,
        *,
        sockets: Iterable[socket.socket] = (),
        io_timeout: float = 30.0,
        tls: ssl.SSLContext | None = None,
        waiting: Callable[[float], None] | None = None,
        keepalive: float = 0.0,
        common: Common | None = None,
        recorder: FlightRecorder | None = None,
        queued: Callable[[int], object] | None = None,
        shed: Callable[[], object] | None = None,
        zone: tzinfo | None = None,
        statsd: Statsd | None = None,
        health: HealthCheck | None = None,
        threads: bool = False,
    ) -> None:
        check_strictness()
        options = options or WSGIOptions()
        self._application = application
        self._health = health
        self._options = options
        self._header_timeout = options.header_timeout or math.inf
        sockets = tuple(sockets)
        silence = Silence(sockets)
        self._pace = Pace(
            io_timeout=io_timeout or math.inf,
            seconds_per_byte=1 / options.min_rate if options.min_rate else math.inf,
            waiting=waiting,
            silence=silence.allowed if silence.deferred else None,
        )
        self._persists = _persistence(keepalive)
        self._tls = tls
        self._no_tls = Throttle(log)
        if tls is not None:
            tls.set_alpn_protocols(["http/1.1"])
        self._script_name = spelled(options.script_name)
        self._heads = Heads(options)
        self._base = base_environ(tls=tls is not None, threads=threads)
        name = _only_name(sockets)
        self._named = name is not None
        if name is not None:
            self._base |= server_name(name, tls=tls is not None)
        self._trusts = truster(options.forwarded_allow_ips)
        self._standing = standings(options.forwarded, options.forwarded_allow_ips)
        self._strangers = Strangers(
            (common or Common()).strangers if options.forwarded in {"auto", "trusted"} else None
        )
        self._recorder = recorder
        self._queued = queued
        self._shed = shed
        self._overload = Overload(options.overload_target) if options.overload == "shed" else None
        self._overloaded = Throttle(log)
        self._refused = "answered 503" if tls is None else "closed before a handshake, or answered 503"
        self._looks = options.check_client_connection or options.overload == "shed"
        self._access = _accounts(options, zone, statsd)
        with contextlib.suppress(OSError):  # without one, a body that needs a file is answered 503
            tempfile.gettempdir()  # found now, since the search opens files and descriptors may be short later

    def serve_connection(
        self,
        connection: socket.socket,
        address: Any,
        *,
        keeps: bool = False,
        before: Channel | None = None,
        received: bytes = b"",
        seen: float = 0.0,
        proxy: ProxyHeader | None = None,
    ) -> Channel | None:
        """Read one request from a connection and answer it.

        Neither what a client does wrong is raised nor what the application raises, SystemExit included.

        Args:
            connection: As accept(2) gave it.
            address: The peer's, as accept(2) gave it or as ``proxy`` has it.
            keeps: Whether the connection may be kept after the response.
            before: What this has returned for the request before, in this process; needed under TLS alone.
            received: What came behind that request (`Channel.rest`).
            seen: When the client was known to be there and silent (seconds of `time.monotonic`); 0 when it has to be
                asked.
            proxy: What a proxy has said of the connection before its first byte.

        Returns:
            What the connection was served through, when it is to be kept. When it is None, who calls closes the
            connection at once: the end of the response may leave with that.

        Raises:
            NothingYetError: ``keeps``, and nothing has come: who calls can wait for it with others. It has the channel,
                if there is one: under TLS there is none before the handshake.
            BaseException: What a signal's handler or another thread raises outside of the application.
        """
        began = time.monotonic()
        if before is None:
            try:
                channel = self._channel(connection, address, began + self._header_timeout, proxy, keeps=keeps)
            except (HandshakeError, RequestError) as error:
                self._no_tls.tell(logging.INFO, str(error), "no TLS with %s: %s", format_peer(address), error)
                return None
        else:
            channel = before
            channel.resume()
            channel.deadline = began + self._header_timeout
        channel.rest = received
        environ = channel.environ.copy()
        response = Response(channel, self._persists)
        try:
            self._serve(channel, environ, response, keeps=keeps, asks=began - seen > _LATELY)
        except NothingYetError:  # it waits where those wait who are silent
            channel.rest = b""
            channel.keep = response.whole = True
            channel.unasked()
            raise NothingYetError(channel) from None
        except RequestError as refusal:
            log.debug("refused %s: %d, %s", format_peer(address), refusal.status, refusal)
            _refuse(channel, response, refusal.status, refusal.why, refusal.fields)
        except ClientGoneError as error:
            leave()  # a copy of this process that the application has made, which has no connection
            channel.gone = True
            log.debug("no answer to %s: %s", format_peer(address), error)
        except BaseException as error:
            leave(error)
            _refuse(channel, response, 500, "the request failed")
            raise
        finally:
            keep = channel.keep and response.whole and not channel.gone
            if not keep:
                channel.part()
            if self._access is not None and response.status and UNLOGGED not in environ:
                if not keep:
                    connection.close()  # nobody waits for a disk
                self._access.write(environ, response, time.monotonic() - began)

        return channel if keep else None

    def refuse(self, connection: socket.socket) -> None:
        """Answer 503 (Service Unavailable) to a connection that can't be served now, without waiting for anything.

        Args:
            connection: As accept(2) gave it; who calls closes it.
        """
        if self._tls is not None:
            return  # a handshake costs as much as a request; that the connection closes says enough
        head, body = answer(503, "try again later", f"Retry-After: {self._options.retry_after}\r\n")
        try:
            connection.setblocking(False)
            connection.send(head + body)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(RECEIVE)  # a close with unread bytes would send RST, and the answer might be lost
        except OSError:
            pass

    def close(self) -> None:
        """Release what was opened: the access log."""
        if self._access is not None:
            self._access.close()

    def _channel(
        self, connection: socket.socket, address: Any, deadline: float, proxy: ProxyHeader | None, *, keeps: bool
    ) -> Channel:
        """What requests come through; under TLS the handshake is done, and the environ says so."""
        if self._tls is None:
            channel = Channel(connection, self._pace)
            channel.deadline = deadline
            environ = channel.environ = self._base.copy()
        else:
            if keeps and not readable(connection.fileno()) and self._pace.bears(connection):
                raise NothingYetError
            waited = self._before_keys(connection)
            channel = secured = TLSChannel(connection, self._pace, self._tls)
            channel.deadline = deadline
            channel.waited = waited  # the handshake will be what has come last
            environ = channel.environ = self._base.copy()
            try:
                secured.handshake()
            except PlainHTTPError:
                secured.reject(b"".join(answer(400, "this port speaks TLS, and the request came without; use https")))
                raise
            except BaseException:
                secured.reject()
                raise
        peer, port = peer_name(address)
        environ["REMOTE_ADDR"] = peer
        if port:
            environ["REMOTE_PORT"] = port
        if proxy is not None:
            set_proxy(environ, proxy)
            if proxy.source is not None:
                peer = peer or ELSEWHERE
        channel.standing = self._standing(peer)
        if not self._named:
            own = channel.secured or connection  # whose descriptor the other has taken
            environ |= server_name(own.getsockname(), tls=self._tls is not None)
        return channel

    def _before_keys(self, connection: socket.socket) -> int:
        """For how many milliseconds a client has waited for its handshake.

        Raises:
            HandshakeError: It does so no more.
            RequestError: 503, it has for too long. Nobody tells it: the handshake may cost as much as the request, so
                that a server which is asked for twice what it can do would agree on keys, and serve nobody.
        """
        if departed(connection):
            raise HandshakeError(DEPARTED)
        asked = Channel(connection, self._pace)
        asked.hung_up()
        if self._overload is not None and self._health is None:  # a check of health is known behind the handshake only
            self._judge(self._overload, asked.waited / 1000)
        return asked.waited

    def _serve(self, channel: Channel, environ: dict[str, Any], response: Response, *, keeps: bool, asks: bool) -> None:
        """Read the request and answer it."""
        head, rest = read_head(channel, self._options, channel.rest, keeps=keeps)
        channel.rest = b""
        channel.deadline = math.inf
        response.head_only = head.startswith(b"HEAD ")
        standing = channel.standing
        target, fields = self._heads.read(head, environ, proxied=standing > 0)
        response.http11 = fields.http11
        path = set_target(environ, target, self._script_name)
        application = self._application
        if self._health is not None and self._health.asked_by(path):
            application = self._health
        if standing != BELIEVED:
            self._strangers.look(environ, head, standing)
        elif fields.forwarded:
            apply_forwarded(environ, self._trusts)
        if asks:
            self._look(channel)
        self._account(channel.waited, environ, head, target)
        if self._overload is not None and application is self._application:
            self._judge(self._overload, channel.waited / 1000)
        channel.last = fields.last and not fields.length  # some end a body with an empty line too many, and even then
        channel.keep = keeps and fields.persists
        if fields.length:
            self._serve_body(application, channel, environ, response, rest, fields)
            return
        environ["wsgi.input"] = io.BytesIO()
        if rest:
            rest = without_empty_lines(rest)
        channel.rest = rest
        channel.stray = bool(rest)
        self._run(application, channel, environ, response)

    def _serve_body(
        self,
        application: Application,
        channel: Channel,
        environ: dict[str, Any],
        response: Response,
        rest: bytes,
        fields: HeadFields,
    ) -> None:
        """Answer a request that has a body, of which ``rest`` has come along with the head."""
        options, length = self._options, fields.length
        stored = options.spool == "all" or (options.spool == "chunked" and length == CHUNKED)
        body = open_body(channel, rest, length, options, expected=fields.expected, stored=stored)
        if isinstance(body, io.BytesIO):
            environ["wsgi.input"] = body
            channel.rest = without_empty_lines(rest[length:])
            channel.stray = bool(channel.rest)
            self._run(application, channel, environ, response)
            return
        response.before = functools.partial(_answer_early, channel, body)
        try:
            if stored:
                with self._spool(body, environ) as environ["wsgi.input"]:
                    self._run(application, channel, environ, response)
            else:
                environ["wsgi.input"] = io.BufferedReader(body, RECEIVE)
                self._run(application, channel, environ, response)
            if channel.keep:
                body.discard()
        finally:
            channel.rest = without_empty_lines(body.surplus)
            channel.stray = not body.ended or bool(channel.rest)

    def _look(self, channel: Channel) -> None:
        """See whether the client is still there, and for how long it has waited: the kernel tells both at once."""
        if not self._looks:
            channel.waited = _UNKNOWN
        elif channel.hung_up() and self._options.check_client_connection:
            raise ClientGoneError("it hung up while it waited")

    def _judge(self, overload: Overload, waited: float) -> None:
        """Refuse the request if it has waited for too long, and all others have."""
        lasted = overload.lasts
        if overload.refuses(waited, time.monotonic()):
            target = self._options.overload_target
            told = "overload: requests wait for more than %g s; those that have are " + self._refused
            self._overloaded.tell(logging.WARNING, "overload", told, target)
            if self._shed is not None:
                self._shed()
            raise RequestError(503, "too many requests", f"Retry-After: {self._options.retry_after}\r\n")
        if lasted and not overload.lasts:
            self._overloaded.end("the overload is over")

    def _account(self, waited: int, environ: dict[str, Any], head: bytes, target: bytes) -> None:
        """Say for how many milliseconds the request had waited, and note it."""
        if waited >= 0:
            environ["prefork.queue_time"] = waited / 1000
            if self._queued is not None:
                self._queued(waited)
        if self._recorder is not None:
            query = environ["QUERY_STRING"]
            self._recorder.request(head, environ["REQUEST_METHOD"], target, query, environ["REMOTE_ADDR"], waited)

    def _spool(self, body: Body, environ: dict[str, Any]) -> IO[bytes]:
        """Receive a whole body before the application runs, and say how long it is."""
        try:
            spooled, length = spool(body, self._options.spool_size)
        except (RequestError, ClientGoneError):
            raise
        except OSError as error:
            log.error("can't store the body of a request: %s", error)
            raise RequestError(503, "the body can't be stored") from error
        environ["CONTENT_LENGTH"] = str(length)
        return spooled

    def _run(self, application: Application, channel: Channel, environ: dict[str, Any], response: Response) -> None:
        """Run the application and send what it answers."""
        try:
            result = application(environ, response.start)
            try:
                response.send(result)
            finally:
                close = getattr(result, "close", None)
                if close is not None:
                    close()
        except (RequestError, ClientGoneError):
            raise
        except BaseException as error:  # the worker outlives all of them: see Worker.handle
            leave(error)
            # The environ is the application's to change.
            log.exception("the application failed on %s %s", environ.get("REQUEST_METHOD"), environ.get("REQUEST_URI"))
            if not response.whole:  # else the client has its answer, and perhaps asks again already
                _refuse(channel, response, 500, "the application failed")


def _answer_early(channel: Channel, body: Body) -> None:
    """The response begins: the connection is kept if what the application has not read yet is little, and is here.

    Nobody waits for the rest of it, which may never come, and the next request can't be found before it.
    """
    left = body.left
    if left is None or left > DRAINED or not (channel.keep and body.arrived()):
        channel.keep = False
    body.forgo_continue()


def _persistence(keepalive: float) -> bytes:
    """The end of the head of a response on a connection that is kept.

    Clients are told less than what is true (Keep-Alive, RFC 2068, 19.7.1.1): a request that meets the end of the
    connection on its way is lost.
    """
    told = int(keepalive - min(_MARGIN, keepalive / 4))
    return b"Connection: keep-alive\r\n" + (b"Keep-Alive: timeout=%d\r\n" % told if told else b"") + b"\r\n"


def _refuse(channel: Channel, response: Response, status: int, why: str, fields: str = "") -> None:
    """Answer in place of the application, unless it has begun to; an answer that it has not ended is cut short."""
    if response.cut:
        channel.abort()
    try:
        response.refuse(status, why, fields)
    except (RequestError, ClientGoneError):
        channel.gone = True


def _accounts(options: WSGIOptions, zone: tzinfo | None, statsd: Statsd | None) -> Account | None:
    """Who is told of each request."""
    if not options.access_log and statsd is None:
        return None
    from prefork.wsgi import access

    accounts: list[Account] = []
    if options.access_log == "logger":
        accounts.append(access.LoggedAccess(options.access_log_format, zone))
    elif options.access_log:
        accounts.append(access.AccessLog(options.access_log, options.access_log_format, zone))
    if statsd is not None:
        from prefork.services.statsd import RequestMetrics

        accounts.append(RequestMetrics(statsd))
    return accounts[0] if len(accounts) == 1 else access.SeveralAccounts(accounts)


def _only_name(sockets: tuple[socket.socket, ...]) -> Any:
    """The address that every connection of these listening sockets has on our side; None when they may differ."""
    if len(sockets) != 1:
        return None
    name = sockets[0].getsockname()
    return None if isinstance(name, tuple) and name[0] in {"0.0.0.0", "::"} else name
