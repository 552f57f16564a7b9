"""Applications for the commands: nothing is said here of who serves them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from typing import Any

import aiohttp.web
import tornado.web


def wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    body = f"{environ['REMOTE_ADDR']} {os.getpid()}".encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        os.write(1, f"lifespan ends in {os.getpid()}\n".encode())
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": f"{message['text']} {os.getpid()}"})
        os.write(1, f"websocket ends with {message['code']}\n".encode())
    else:
        body = f"{scope['client'][0]} {os.getpid()}".encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})


class Page(tornado.web.RequestHandler):
    """Answers."""

    def get(self) -> None:
        self.write(f"tornado {os.getpid()}")


async def _answer(_: aiohttp.web.Request) -> aiohttp.web.Response:
    return aiohttp.web.Response(text=f"aiohttp {os.getpid()}")


def of_tornado() -> tornado.web.Application:
    return tornado.web.Application([("/", Page)])


def of_aiohttp() -> aiohttp.web.Application:
    application = aiohttp.web.Application()
    application.router.add_get("/", _answer)
    return application


async def of_asyncio(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\nasyncio")
