"""The servers that speak TLS themselves, each by its own options."""

from __future__ import annotations

import os
import socket
import ssl
from asyncio import sleep
from http.server import ThreadingHTTPServer
from typing import Any

import application  # type: ignore[import-not-found]  # on PYTHONPATH when this is served

from prefork import Worker, embed

CERTIFICATE, KEY = os.environ["EMBED_CERTIFICATE"], os.environ["EMBED_KEY"]


def context() -> ssl.SSLContext:
    """What a server shows its clients."""
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    made.load_cert_chain(CERTIFICATE, KEY)
    return made


class Securing(ThreadingHTTPServer):
    """Secures each connection, as the standard library's documentation has it."""

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept one."""
        connection, address = super().get_request()
        return context().wrap_socket(connection, server_side=True), address


class Listening(ThreadingHTTPServer):
    """Secures its listener when it has listened, as Python 3.14's HTTPSServer does."""

    def server_activate(self) -> None:
        """Listen."""
        super().server_activate()
        self.socket = context().wrap_socket(self.socket, server_side=True)


class Bound(ThreadingHTTPServer):
    """Secures its listener at once."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.socket = context().wrap_socket(self.socket, server_side=True)


async def slowly(reader: Any, writer: Any) -> None:
    """Answer a line with twenty, in two seconds."""
    await reader.readline()
    for _ in range(20):
        writer.write(b"0123456789")
        await writer.drain()
        await sleep(0.1)


async def again(reader: Any, writer: Any) -> None:
    """Answer each line."""
    while line := await reader.readline():
        writer.write(line)


def __getattr__(name: str) -> type[Worker]:
    makers: dict[str, Any] = {
        "uvicorn": lambda: embed.uvicorn("application:asgi", ssl_certfile=CERTIFICATE, ssl_keyfile=KEY, loop="asyncio"),
        "uvloop": lambda: embed.uvicorn("application:asgi", ssl_certfile=CERTIFICATE, ssl_keyfile=KEY, loop="uvloop"),
        "hypercorn": lambda: embed.hypercorn("application:asgi", certfile=CERTIFICATE, keyfile=KEY),
        "aiohttp": lambda: embed.aiohttp("application:aiohttp", ssl_context=context()),
        "tornado": lambda: embed.tornado("application:tornado()", ssl_options=context()),
        "asyncio": lambda: embed.asyncio("application:streams", ssl=context()),
        "socketserver": lambda: embed.socketserver(Securing, application.Handler),
        "listening": lambda: embed.socketserver(Listening, application.Handler),
        "bound": lambda: embed.socketserver(Bound, application.Handler),
        "impatient_asyncio": lambda: embed.asyncio(again, ssl=context(), ssl_handshake_timeout=0.1),
        "impatient_uvloop": lambda: embed.asyncio(again, ssl=context(), ssl_handshake_timeout=0.1, loop="uvloop"),
        "slowly_asyncio": lambda: embed.asyncio(slowly, ssl=context()),
        "slowly_uvloop": lambda: embed.asyncio(slowly, ssl=context(), loop="uvloop"),
        "again_asyncio": lambda: embed.asyncio(again, ssl=context()),
        "again_uvloop": lambda: embed.asyncio(again, ssl=context(), loop="uvloop"),
        "gevent": lambda: embed.gevent("application:wsgi", certfile=CERTIFICATE, keyfile=KEY),
        "cheroot": lambda: embed.cheroot("application:wsgi", ssl_adapter=_adapter()),
    }
    if name not in makers:
        raise AttributeError(name)
    made: type[Worker] = makers[name]()
    return made


def _adapter() -> Any:
    from cheroot.ssl.builtin import BuiltinSSLAdapter  # type: ignore[import-not-found,unused-ignore]  # optional

    return BuiltinSSLAdapter(CERTIFICATE, KEY)
