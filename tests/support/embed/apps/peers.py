"""Each embedded server with an application that says who its client is: host and port, as the server knows them."""

from __future__ import annotations

import asyncio as aio
import socketserver
from typing import Any

from prefork import embed


def wsgi(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    body = f"{environ['REMOTE_ADDR']} {environ.get('REMOTE_PORT', '')}".strip().encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while (await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = f"{scope['client'][0]} {scope['client'][1]}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


async def streams(reader: aio.StreamReader, writer: aio.StreamWriter) -> None:
    while await reader.readline() > b"\r\n":
        pass
    body = "{} {}".format(*writer.get_extra_info("peername")[:2]).encode()
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    await writer.drain()


class Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while self.rfile.readline() > b"\r\n":
            pass
        body = "{} {}".format(*self.client_address[:2]).encode()
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


def for_aiohttp() -> Any:
    from aiohttp import web

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=str(request.remote))

    application = web.Application()
    application.router.add_get("/", answer)
    return application


def for_tornado(request: Any) -> None:
    body = request.remote_ip.encode()
    request.connection.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    request.connection.finish()


wsgiref = embed.wsgiref(wsgi)
werkzeug = embed.werkzeug(wsgi)
waitress = embed.waitress(wsgi)
cheroot = embed.cheroot(wsgi)
bjoern = embed.bjoern(wsgi)
gevent = embed.gevent(wsgi)
uvicorn = embed.uvicorn(asgi)
uvicorn_asyncio = embed.uvicorn(asgi, loop="asyncio")
hypercorn = embed.hypercorn(asgi)
aiohttp = embed.aiohttp("peers:for_aiohttp")
tornado = embed.tornado("peers:for_tornado")
asyncio = embed.asyncio(streams)
asyncio_uvloop = embed.asyncio(streams, loop="uvloop")
threads = embed.socketserver(socketserver.ThreadingTCPServer, Handler)
