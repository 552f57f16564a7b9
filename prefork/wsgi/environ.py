"""The environ of a request, beyond its header fields: what the server says, and where the target leads (PEP 3333)."""

from __future__ import annotations

import sys
from typing import Any
from urllib.parse import unquote_to_bytes

from prefork._version import __version__
from prefork.net.proxy_protocol import ProxyHeader
from prefork.wsgi.files import FileWrapper
from prefork.wsgi.host import valid_host
from prefork.wsgi.refusal import RequestError


def base_environ(*, tls: bool, threads: bool = False) -> dict[str, Any]:
    """What is the same for all requests of a worker.

    Args:
        tls: Whether TLS is spoken.
        threads: Whether several threads may be in the application at once.
    """
    return {
        "SERVER_SOFTWARE": f"prefork/{__version__}",
        "SCRIPT_NAME": "",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "https" if tls else "http",
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": threads,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.file_wrapper": FileWrapper,
        "wsgi.input_terminated": True,  # reading past the end of a body gives b"" and never waits
    }


def server_name(address: Any, *, tls: bool) -> dict[str, str]:
    """SERVER_NAME and SERVER_PORT, which may not be empty.

    Args:
        address: A socket's own name as the kernel gives it (getsockname(2)).
        tls: Whether TLS is spoken there.
    """
    if isinstance(address, tuple):
        return {"SERVER_NAME": address[0], "SERVER_PORT": str(address[1])}
    return {"SERVER_NAME": "localhost", "SERVER_PORT": "443" if tls else "80"}


def peer_name(address: Any) -> tuple[str, str]:
    """REMOTE_ADDR and REMOTE_PORT, from what accept(2) gave; both "" for a unix socket, which has no port."""
    return (address[0], str(address[1])) if isinstance(address, tuple) else ("", "")


def set_proxy(environ: dict[str, Any], proxy: ProxyHeader) -> None:
    """What a proxy has said of the connection; what has come to it over TLS has come over TLS."""
    environ["prefork.proxy"] = proxy
    ssl = proxy.ssl
    if ssl is not None and ssl.secured:
        environ["wsgi.url_scheme"] = "https"


def set_target(environ: dict[str, Any], target: bytes, script_name: str = "") -> str:
    """PATH_INFO, QUERY_STRING, SCRIPT_NAME and, as they came, RAW_URI and REQUEST_URI.

    Args:
        environ: Has the request line and header fields already.
        target: ASCII without controls and spaces.
        script_name: From `spelled`; the path where the application is mounted, or "".

    Returns:
        The path as it came, with the mount where that came as well; written as PATH_INFO is.

    Raises:
        RequestError: The target has none of the forms of RFC 9112, 3.2 that a server takes.
    """
    text = target.decode("ascii")
    environ["RAW_URI"] = environ["REQUEST_URI"] = text
    if text[0] != "/":
        text = _origin_form(environ, text)
    path, _, environ["QUERY_STRING"] = text.partition("?")
    if "%" in path:
        path = spelled(path)
    environ["PATH_INFO"] = path
    if script_name:
        environ["SCRIPT_NAME"] = script_name
        environ["PATH_INFO"] = below(script_name, path)
    return path


def below(mount: str, path: str) -> str:
    """What of a path is the application's. Pure.

    A proxy that leads a path to an application passes it on as it came, or without the mount: then it is all of it.

    Args:
        mount: The path under which it is mounted.
        path: The path that was asked for.
    """
    return path[len(mount) :] if path == mount or path.startswith(f"{mount}/") else path


def spelled(path: str) -> str:
    """A URL's path as PEP 3333 has it: its bytes, unescaped, each as one character. Pure."""
    return unquote_to_bytes(path).decode("latin-1")


def _origin_form(environ: dict[str, Any], text: str) -> str:
    """Path and query of a target in absolute form or asterisk form; the former replaces Host (RFC 9112, 3.2.2)."""
    if text == "*" and environ["REQUEST_METHOD"] == "OPTIONS":
        return ""  # the server as a whole: PEP 3333 knows no other path for it
    scheme, separator, rest = text.partition("://")
    if not separator or scheme.lower() not in {"http", "https"}:
        raise RequestError(400, "the target is neither a path nor an http URL")
    cut = min((at for at in map(rest.find, "/?") if at >= 0), default=len(rest))
    authority = rest[:cut]
    if not valid_host(authority):
        raise RequestError(400, "the target's host can't be one")
    environ["HTTP_HOST"] = authority
    rest = rest[cut:]
    if environ["REQUEST_METHOD"] == "OPTIONS" and not rest:
        return ""
    return rest if rest.startswith("/") else f"/{rest}"
