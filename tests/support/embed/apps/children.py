"""An application whose handlers fork, for each server of `prefork.embed`; the environment says which."""

from __future__ import annotations

import http.server
import importlib
import json
import os
import socketserver
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefork import embed

sys.path.append(str(Path(__file__).parents[2] / "apps"))

ANSWERS = importlib.import_module("forking").ANSWERS


def body_of(path: str) -> bytes:
    return json.dumps(ANSWERS[path]()).encode()


def wsgi(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    body = body_of(environ["PATH_INFO"])
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    while scope["type"] == "lifespan":
        message = await receive()
        print("SAID", message["type"], flush=True)
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
    body = body_of(scope["path"])
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


async def stream(reader: Any, writer: Any) -> None:
    path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
    body = body_of(path)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


def of_aiohttp() -> Any:
    from aiohttp import web

    async def answer(request: Any) -> Any:
        return web.Response(body=body_of(request.path))

    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    return application


def of_tornado() -> Any:
    from tornado import web

    class Answer(web.RequestHandler):
        def get(self) -> None:
            self.write(body_of(self.request.path))

    return web.Application([(".*", Answer)])


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:  # as it is called
        body = body_of(self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Forking(socketserver.ForkingMixIn, http.server.HTTPServer):
    pass


MAKERS: dict[str, Callable[[], Any]] = {
    "wsgiref": lambda: embed.wsgiref(wsgi),
    "werkzeug": lambda: embed.werkzeug(wsgi, threaded=True),
    "socketserver": lambda: embed.socketserver(http.server.ThreadingHTTPServer, Handler),
    "forking": lambda: embed.socketserver(Forking, Handler),
    "waitress": lambda: embed.waitress(wsgi),
    "cheroot": lambda: embed.cheroot(wsgi),
    "bjoern": lambda: embed.bjoern(wsgi),
    "gevent": lambda: embed.gevent(wsgi),
    "asyncio": lambda: embed.asyncio(stream),
    "uvicorn": lambda: embed.uvicorn(asgi),
    "hypercorn": lambda: embed.hypercorn(asgi),
    "aiohttp": lambda: embed.aiohttp(of_aiohttp),
    "tornado": lambda: embed.tornado(of_tornado()),
}
Worker = MAKERS[os.environ["SERVER"]]()
