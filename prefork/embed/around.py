"""What holds around an application that somebody else's server runs: proxies, the path of its mount, the access log.

The same settings, with the same meaning, as in `prefork wsgi`. WORKER.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol
from urllib.parse import quote, unquote

from prefork.accept.offspring import guarded, leave
from prefork.config.networks import truster
from prefork.system.natives import time
from prefork.system.remembered import Remembered
from prefork.wsgi.access import AccessLog
from prefork.wsgi.environ import below, spelled
from prefork.wsgi.forwarded import BELIEVED, ELSEWHERE, LEFT_OUT, apply, proxys_own, standings
from prefork.wsgi.health import HealthCheck, Told

if TYPE_CHECKING:
    from datetime import tzinfo

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
WSGI = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_SAFE: Final = "/;,:@&=+$!*'()~-._"  # of a path, not escaped (RFC 3986)


class Around(Protocol):
    """The settings that this is about, as `prefork.wsgi.options.WSGIOptions` has them."""

    @property
    def forwarded_allow_ips(self) -> str:
        """Which proxies are believed."""

    @property
    def forwarded(self) -> str:
        """What becomes of the fields of others."""

    @property
    def script_name(self) -> str:
        """Where the application is mounted."""

    @property
    def access_log(self) -> str:
        """The file of the access log; "" for none."""

    @property
    def access_log_format(self) -> Any:
        """The form of its lines."""


class _Proxies:
    """What becomes of what proxies say.

    Args:
        options: The settings.
        proxied: Whether a peer without an address need not be one on a unix socket of ours (``proxy_protocol``).
    """

    def __init__(self, options: Around, *, proxied: bool) -> None:
        self._nameless = ELSEWHERE if proxied else ""
        self._standing = standings(options.forwarded, options.forwarded_allow_ips)
        self._trusts = truster(options.forwarded_allow_ips)

    def settle(self, environ: dict[str, Any]) -> bool:
        """Let an environ say what a trusted proxy says.

        Returns:
            Whether the fields of proxies are to be left out.
        """
        standing = self._standing(environ.get("REMOTE_ADDR") or self._nameless)
        if standing == BELIEVED:
            apply(environ, self._trusts)
        return standing == LEFT_OUT


class Sent:
    """What was answered, for the access log.

    Attributes:
        status: The status line, or its code; "" when nothing was sent.
        sent: How many bytes of body.
        fields: The header fields.
    """

    def __init__(self) -> None:
        self.status = ""
        self.sent = 0
        self.fields: Iterable[tuple[str, str]] = ()

    def field(self, name: str) -> str | None:
        """The value of a header field of it; None when there is none."""
        return next((value for field, value in self.fields if field.lower() == name), None)


class AroundWSGI:
    """A WSGI application around another.

    Args:
        application: The application.
        options: The settings.
        zone: Whose time of day the access log has, from `prefork.system.zone.find`.
        proxied: Whether connections begin with a header of the PROXY protocol.
        health: Answers on a path of its own; None when there is none.

    Raises:
        SettingsError: The access log can't be opened.
    """

    def __init__(
        self,
        application: WSGI,
        options: Around,
        zone: tzinfo | None = None,
        *,
        proxied: bool = False,
        health: HealthCheck | None = None,
    ) -> None:
        self._application = application
        self._health = health
        self._proxies = _Proxies(options, proxied=proxied)
        self._script_name = spelled(options.script_name)
        self._log = AccessLog(options.access_log, options.access_log_format, zone) if options.access_log else None

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Serve one request."""
        if self._health is not None and self._health.asked_by(environ.get("PATH_INFO", "")):
            return self._health(environ, start_response)
        if self._proxies.settle(environ):
            for name in [name for name in environ if proxys_own(name)]:
                del environ[name]
        if self._log is not None and "REQUEST_URI" not in environ:
            path = (environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")).encode("latin-1")
            query = environ.get("QUERY_STRING", "")
            environ["REQUEST_URI"] = quote(path, safe=_SAFE) + (f"?{query}" if query else "")
        if self._script_name:
            environ["SCRIPT_NAME"] = environ.get("SCRIPT_NAME", "") + self._script_name
            environ["PATH_INFO"] = below(self._script_name, environ.get("PATH_INFO", ""))
        if self._log is None:
            return self._application(environ, start_response)
        return self._logged(self._log, environ, start_response)

    def _logged(self, log: AccessLog, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        began, answer = time.monotonic(), Sent()

        def start(code: str, fields: list[tuple[str, str]], *rest: Any) -> Callable[[bytes], object]:
            answer.status, answer.fields = code, fields
            write: Callable[[bytes], object] = start_response(code, fields, *rest)

            def counted(data: bytes) -> None:
                answer.sent += len(data)
                write(data)

            return counted

        result: Iterable[bytes] = ()
        try:
            result = self._application(environ, start)
            for part in result:
                answer.sent += len(part)
                yield part
        except BaseException as error:
            leave(error)  # a process that the application has forked has nothing to log
            raise
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                close()
            log.write(environ, answer, time.monotonic() - began)


class AroundASGI:
    """An ASGI application around another (https://asgi.readthedocs.io, version 3).

    Args:
        application: The application.
        options: The settings.
        zone: Whose time of day the access log has, from `prefork.system.zone.find`.
        proxied: Whether connections begin with a header of the PROXY protocol.
        health: Answers on a path of its own; None when there is none.

    Raises:
        SettingsError: The access log can't be opened.
    """

    def __init__(
        self,
        application: Callable[..., Awaitable[None]],
        options: Around,
        zone: tzinfo | None = None,
        *,
        proxied: bool = False,
        health: HealthCheck | None = None,
    ) -> None:
        self._application = _guarded(application)
        self._health = health
        self._proxies = _Proxies(options, proxied=proxied)
        self._mount = unquote(options.script_name)
        self._log = AccessLog(options.access_log, options.access_log_format, zone) if options.access_log else None

    async def __call__(self, scope: Scope, receive: Callable[[], Awaitable[Any]], send: Send) -> None:
        """Serve one request, one websocket, or the application's lifespan."""
        kind: Literal["http", "websocket", "lifespan"] = scope["type"]
        if kind == "lifespan":
            return await self._application(scope, receive, send)
        environ = _environ_of(scope)
        if kind == "http" and self._health is not None and self._health.asked_by(environ["PATH_INFO"]):
            return await _tell(self._health.told(environ["REQUEST_METHOD"]), send)
        if self._proxies.settle(environ):
            scope["headers"] = [pair for pair in scope["headers"] if not _is_proxys_own(pair[0])]
        else:
            if environ["REMOTE_ADDR"] != _host(scope):
                scope["client"] = (environ["REMOTE_ADDR"], 0)
            secure = environ["wsgi.url_scheme"] == "https"
            scope["scheme"] = ("wss" if secure else "ws") if kind == "websocket" else environ["wsgi.url_scheme"]
        if self._mount:
            _mounted(scope, self._mount)
        if self._log is None:
            return await self._application(scope, receive, send)
        return await self._logged(self._log, environ, scope, receive, send)

    async def _logged(
        self, log: AccessLog, environ: dict[str, Any], scope: Scope, receive: Callable[[], Awaitable[Any]], send: Send
    ) -> None:
        began, answer = time.monotonic(), Sent()

        async def counting(message: MutableMapping[str, Any]) -> None:
            if message["type"] in {"http.response.start", "websocket.http.response.start"}:
                answer.status = str(message["status"])
                fields = message.get("headers", ())
                answer.fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields]
            elif message["type"] == "websocket.accept":
                answer.status = "101"
            elif message["type"] == "http.response.body":
                answer.sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._application(scope, receive, counting)
        finally:
            log.write(environ, answer, time.monotonic() - began)


def _mounted(scope: Scope, mount: str) -> None:
    """Have a scope say where the application is mounted, which its path begins with (ASGI).

    A proxy that leads a path to an application passes it on as it came, or without the mount; so it is put back where
    it is missing, as uvicorn does it with its ``root_path``.
    """
    whole = mount + below(mount, scope["path"])
    if whole != scope["path"]:
        scope["path"] = whole
        if scope.get("raw_path") is not None:
            scope["raw_path"] = quote(mount, safe=_SAFE).encode() + scope["raw_path"]
    scope["root_path"] = scope.get("root_path", "") + mount


def _guarded(application: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """An ASGI application out of which a process that it has forked doesn't come: to the loop, to the access log."""

    async def guard(scope: Scope, receive: Callable[[], Awaitable[Any]], send: Send) -> None:
        with guarded():
            await application(scope, receive, send)

    return guard


async def _tell(told: Told, send: Send) -> None:
    """Answer a request; the server leaves the body out where the method is HEAD."""
    fields = [(name.lower().encode(), value.encode()) for name, value in told.fields]
    await send({"type": "http.response.start", "status": int(told.status[:3]), "headers": fields})
    await send({"type": "http.response.body", "body": told.body})


def _host(scope: Scope) -> str:
    return scope["client"][0] if scope.get("client") else ""


def _named(field: bytes) -> str:
    return "HTTP_" + field.decode("latin-1").upper().replace("-", "_")


def _of_a_proxy(field: bytes) -> bool:
    return proxys_own(_named(field))


_name: Final = Remembered(_named).__getitem__
_is_proxys_own: Final = Remembered(_of_a_proxy).__getitem__


def _environ_of(scope: Scope) -> dict[str, Any]:
    """What is told of a request, under the names that WSGI has for it."""
    query = scope.get("query_string", b"").decode("latin-1")
    path = (scope.get("raw_path") or quote(scope["path"].encode(), safe=_SAFE).encode()).decode("latin-1")
    environ: dict[str, Any] = {
        "REMOTE_ADDR": _host(scope),
        "REQUEST_METHOD": scope.get("method", "GET"),
        "REQUEST_URI": f"{path}?{query}" if query else path,
        "PATH_INFO": spelled(path) if "%" in path else path,
        "QUERY_STRING": query,
        "SERVER_PROTOCOL": f"HTTP/{scope.get('http_version', '1.1')}",
        "wsgi.url_scheme": "https" if scope.get("scheme") in {"https", "wss"} else "http",
    }
    for field, value in scope["headers"]:
        name, text = _name(field), value.decode("latin-1")
        environ[name] = f"{environ[name]},{text}" if name in environ else text
    return environ
