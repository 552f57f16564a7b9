"""The servers that speak TLS themselves, each by its own options."""

from __future__ import annotations

import os
import ssl
from asyncio import sleep
from typing import Any

from prefork import Worker, embed

CERTIFICATE, KEY = os.environ["EMBED_CERTIFICATE"], os.environ["EMBED_KEY"]


def context() -> ssl.SSLContext:
    """What a server shows its clients."""
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    made.load_cert_chain(CERTIFICATE, KEY)
    return made


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
