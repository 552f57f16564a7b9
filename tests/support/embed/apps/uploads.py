"""The servers with an application that says how many bytes of a body it has read: ``uploads:uvicorn`` and so on."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prefork import embed


def wsgi(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """WSGI."""
    body = b"%d" % len(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """ASGI."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    count, more = 0, True
    while more:
        message = await receive()
        count, more = count + len(message.get("body", b"")), message.get("more_body", False)
    body = b"%d" % count
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def streams(reader: Any, writer: Any) -> None:
    """HTTP by hand, as much as is asked of it."""
    while await reader.readline():
        length = 0
        while (line := (await reader.readline()).lower()) > b"\r\n":
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
            elif line.startswith(b"expect:"):
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = b"%d" % len(await reader.readexactly(length))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()


class Handler(BaseHTTPRequestHandler):
    """For the standard library's servers."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answer."""
        body = b"%d" % len(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def aiohttp_application() -> Any:
    """An aiohttp application."""
    from aiohttp import web  # type: ignore[import-not-found,unused-ignore]  # optional

    async def answer(request: Any) -> Any:
        return web.Response(text=str(len(await request.read())))

    application = web.Application()
    application.router.add_post("/", answer)
    return application


def tornado_application() -> Any:
    """A tornado application."""
    from tornado import web  # type: ignore[import-not-found,unused-ignore]  # optional

    class Answer(web.RequestHandler):  # type: ignore[misc,unused-ignore]  # optional
        def post(self) -> None:
            self.write(str(len(self.request.body)))

    return web.Application([("/", Answer)])


wsgiref = embed.wsgiref(wsgi)
werkzeug = embed.werkzeug(wsgi, threaded=True)
socketserver = embed.socketserver(ThreadingHTTPServer, Handler)
waitress = embed.waitress(wsgi)
cheroot = embed.cheroot(wsgi)
bjoern = embed.bjoern(wsgi)
gevent = embed.gevent(wsgi, log=None)
asyncio = embed.asyncio(streams)
uvicorn = embed.uvicorn(asgi, access_log=False)
hypercorn = embed.hypercorn(asgi, keep_alive_timeout=60)  # a busy machine's tests take longer than its 5 seconds
aiohttp = embed.aiohttp(aiohttp_application, access_log=None)
tornado = embed.tornado("uploads:tornado_application()")
