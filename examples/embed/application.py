"""One small application in every dialect: it says which process answers, after ``?wait=SECONDS``.

The other files of this folder serve it, each with another server: ``prefork serve with_uvicorn:Worker --app-dir
examples/embed``.
"""

import asyncio
import os
import time
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs


def seconds(query: str) -> float:
    """What the query asks to wait."""
    return float(parse_qs(query).get("wait", ["0"])[0])


def wsgi(environ, start_response):
    """WSGI (PEP 3333)."""
    time.sleep(seconds(environ.get("QUERY_STRING", "")))
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


async def asgi(scope, receive, send):
    """ASGI, with the lifespan protocol."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    await asyncio.sleep(seconds(scope["query_string"].decode()))
    headers = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})


async def streams(reader, writer):
    """Reader and writer, as for ``asyncio.start_server``: HTTP requests by hand, until the client has no more."""
    while request := await reader.readline():
        while await reader.readline() > b"\r\n":
            pass  # the headers; an empty line ends them
        await asyncio.sleep(seconds(request.decode().split()[1].partition("?")[2]))
        body = str(os.getpid()).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()


class Handler(BaseHTTPRequestHandler):
    """A request handler of the standard library's ``http.server``."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer."""
        time.sleep(seconds(self.path.partition("?")[2]))
        body = str(os.getpid()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def aiohttp():
    """An aiohttp application."""
    from aiohttp import web

    async def answer(request: web.Request) -> web.Response:
        await asyncio.sleep(seconds(request.query_string))
        return web.Response(text=str(os.getpid()))

    application = web.Application()
    application.router.add_get("/", answer)
    return application


def tornado():
    """A tornado application."""
    from tornado import web

    class Answer(web.RequestHandler):
        async def get(self) -> None:
            await asyncio.sleep(seconds(self.request.query))
            self.write(str(os.getpid()))

    return web.Application([("/", Answer)])
